// A data holder with the unmodified syft.js:  node syft_worker.mjs FOLDER_WITH_NODE_MODULES < order.json
//
// The order is {"url", "name", "version", "token", "X": [[...]], "y": [[...]]}. It asks for work, takes the steps that
// client_config tells, all on the one batch, and reports. One line of JSON tells how it ended: {"outcome", "worker_id",
// "metrics": [{loss, accuracy}], "diff": base64} or {"outcome": "rejected", "timeout"} or {"outcome": "error", "error"}.

import { createRequire } from 'node:module';
import path from 'node:path';
import { text } from 'node:stream/consumers';

console.warn = console.log = console.info = () => {};
const require = createRequire(path.join(process.argv[2], 'package.json'));
globalThis.WebSocket ??= require('ws');
const tf = require('@tensorflow/tfjs-core');
const { Syft } = require('@openmined/syft.js');

async function train(job, model, config, order) {
  const [X, y] = [tf.tensor2d(order.X), tf.tensor2d(order.y)];
  const metrics = [];
  let params = model.params.map((param) => param.clone());
  for (let step = 0; step < config.max_updates; step++) {
    const plan = job.plans.training_plan;
    const [loss, accuracy, ...next] = await plan.execute(job.worker, X, y, order.X.length, config.lr, ...params);
    metrics.push({ loss: (await loss.data())[0], accuracy: (await accuracy.data())[0] });
    params = next;
  }
  const diff = await model.createSerializedDiff(params);
  await job.report(diff);
  return { outcome: 'reported', metrics, diff: Buffer.from(diff).toString('base64') };
}

async function run(order) {
  // "verbose" is what lets syft.js use addresses without TLS
  const client = new Syft({ url: order.url, verbose: true, authToken: order.token });
  client.logger.verbose = false;
  const job = await client.newJob({ modelName: order.name, modelVersion: order.version });
  const outcome = await new Promise((resolve, reject) => {
    job.on('accepted', ({ model, clientConfig }) => train(job, model, clientConfig, order).then(resolve, reject));
    job.on('rejected', ({ timeout }) => resolve({ outcome: 'rejected', timeout: timeout ?? null }));
    job.on('error', reject);
    job.start().catch(reject);
  });
  return { ...outcome, worker_id: client.worker_id };
}

let answer;
try {
  answer = await run(JSON.parse(await text(process.stdin)));
} catch (error) {
  answer = { outcome: 'error', error: String(error?.message ?? error) };
}
process.stdout.write(`${JSON.stringify(answer)}\n`, () => process.exit(0));
