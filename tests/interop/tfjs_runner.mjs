// Runs plans with the unmodified syft.js and TensorFlow.js:  node tfjs_runner.mjs FOLDER_WITH_NODE_MODULES
//
// Each line of standard input is {"plan": base64, "inputs": [number | {dtype, shape, data: base64}, ...]}; each line
// of standard output {"outputs": [{dtype, shape, data}, ...], "kept": number of tensors that stayed} or {"error": text}.
// syft.js gives no plan away but in a job, so it gets a job here: `fetch` answers as a node would.

import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';

console.warn = console.log = console.info = () => {}; // tfjs greets on the console
const require = createRequire(path.join(process.argv[2], 'package.json'));
const tf = require('@tensorflow/tfjs-core');
const { Syft } = require('@openmined/syft.js');

const KINDS = { float32: Float32Array, int32: Int32Array, bool: Uint8Array };
let served = null; // the plan's bytes

globalThis.fetch = async (address) => {
  const json = (value) => new Response(JSON.stringify(value));
  const call = new URL(address).pathname.split('/').pop();
  switch (call) {
    case 'authenticate':
      return json({ status: 'success', worker_id: 'w' });
    case 'cycle-request':
      return json({
        status: 'accepted', request_key: 'k', model_id: 1, plans: { plan: 1 }, protocols: {}, client_config: {},
      });
    case 'get-model':
      return new Response(new Uint8Array());
    case 'get-plan':
      return new Response(served);
    default:
      throw new Error(`not expected: ${address}`);
  }
};

function tensor(given) {
  if (typeof given === 'number') return given;
  const bytes = Uint8Array.from(Buffer.from(given.data, 'base64'));
  return tf.tensor(new KINDS[given.dtype](bytes.buffer), given.shape, given.dtype);
}

async function dumped(result) {
  const data = KINDS[result.dtype].from(await result.data()); // a cast may leave the array as it was
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return { dtype: result.dtype, shape: result.shape, data: bytes.toString('base64') };
}

async function load(bytes) {
  served = bytes;
  const client = new Syft({ url: 'http://127.0.0.1:1', verbose: true });
  client.logger.verbose = false;
  const job = await client.newJob({ modelName: 'm', modelVersion: '1' });
  await new Promise((resolve, reject) => {
    job.on('accepted', resolve);
    job.on('error', reject);
    job.start().catch(reject);
  });
  return job;
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  let answer;
  try {
    const { plan, inputs } = JSON.parse(line);
    const job = await load(Buffer.from(plan, 'base64'));
    const given = inputs.map(tensor);
    const before = tf.memory().numTensors;
    const results = await job.plans.plan.execute(job.worker, ...given);
    const kept = tf.memory().numTensors - before;
    const outputs = [];
    for (const result of results) outputs.push(await dumped(result));
    answer = { outputs, kept };
  } catch (error) {
    answer = { error: String(error?.message ?? error) };
  }
  tf.disposeVariables();
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
