// As much of XMLHttpRequest, which Node.js has none of, as syft.js's speed test uses.

import { once } from 'node:events';
import http from 'node:http';

const PIECE = 1 << 17;

export class MeteredRequest {
  readyState = 0;
  upload = {};

  open(method, url) {
    this.request = http.request(url, { method });
    this.request.on('error', (error) => [this, this.upload].forEach((side) => side.onerror?.(error)));
    this.request.on('response', (response) => {
      let loaded = 0;
      response.on('data', (piece) => this.onprogress?.({ loaded: (loaded += piece.length) }));
      response.on('end', () => this.onload?.());
      response.on('error', (error) => this.onerror?.(error));
    });
    this.readyState = 1;
    this.onreadystatechange?.();
  }

  async send(body) {
    const bytes = body === undefined ? Buffer.alloc(0) : Buffer.from(body);
    for (let at = 0; at < bytes.length && !this.request.destroyed; at += PIECE) {
      const full = !this.request.write(bytes.subarray(at, at + PIECE));
      if (full) await once(this.request, 'drain').catch(() => null); // its error has its own handler
      this.upload.onprogress?.({ loaded: Math.min(at + PIECE, bytes.length) });
    }
    this.request.end();
    if (bytes.length) this.upload.onload?.();
  }

  abort() {
    this.request.destroy();
  }
}
