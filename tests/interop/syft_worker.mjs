// A data holder in Node.js:  node syft_worker.mjs FOLDER_WITH_NODE_MODULES < order.json
// Prints one line of JSON: what `run` of syft_cycle.mjs gives, or {outcome: "error", error}.

import { createRequire } from 'node:module';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { run } from './syft_cycle.mjs';
import { MeteredRequest } from './metered_request.mjs';

console.warn = console.log = console.info = () => {};
const require = createRequire(path.join(process.argv[2], 'package.json'));
globalThis.WebSocket ??= require('ws');
globalThis.XMLHttpRequest = MeteredRequest;
globalThis.name = ''; // of a page's window, which the speed test reads

let answer;
try {
  const { Syft } = require('@openmined/syft.js');
  answer = await run(require('@tensorflow/tfjs-core'), Syft, JSON.parse(await text(process.stdin)));
} catch (error) {
  answer = { outcome: 'error', error: String(error?.message ?? error) };
}
process.stdout.write(`${JSON.stringify(answer)}\n`, () => process.exit(0));
