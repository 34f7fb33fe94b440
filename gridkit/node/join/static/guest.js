// A worker of a training: syft.js (the globals `syft` and `tf`) asks, fetches and reports; this file trains in between.

import { batches } from './data.js';

const AGAIN = 3; // seconds to the next try when the node doesn't answer
const TRIES = 5; // for other failures, one after the other
const MANY = 100_000; // values of a model for which a graphics card pays

export class Guest {
  /**
   * @param base the node's address, without a slash at the end
   * @param training {name, version, features, classes, lr}
   * @param told called with what happens: {kind: 'asking' | 'waiting' | 'training' | 'step' | 'reported' | 'trouble', …}
   */
  constructor(base, training, told) {
    this.base = base;
    this.training = training;
    this.told = told;
    this.workerId = null;
    this.measured = false;
    this.left = new AbortController();
  }

  /** Become a worker, once: the token is good for one. syft.js would do this too, but has no place for a name. */
  async enter(token, label) {
    const wish = { model_name: this.training.name, model_version: this.training.version, auth_token: token };
    const response = await fetch(`${this.base}/model-centric/authenticate`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(label ? { ...wish, worker: label } : wish),
    });
    const answer = await response.json();
    if (!response.ok || answer.error) throw Object.assign(new Error(answer.error), { status: response.status });
    this.workerId = answer.worker_id;
    this.measured = Boolean(answer.requires_speed_test);
  }

  leave() {
    this.left.abort();
  }

  /** Train, round after round, until the training is over or the guest leaves. `examples()` gives {x, label} each. */
  async takePart(examples) {
    tf.setBackend('cpu'); // exact, and fast enough for little
    const client = new syft.Syft({ url: this.base, verbose: true }); // else it changes http into https
    client.logger.verbose = false;
    client.worker_id = this.workerId;
    client.requires_speed_test = this.measured;
    const job = await client.newJob({ modelName: this.training.name, modelVersion: this.training.version });
    let settle;
    job.on('accepted', (cycle) => settle.resolve({ cycle }));
    job.on('rejected', ({ timeout }) => settle.resolve({ timeout }));
    job.on('error', (error) => settle.reject(error));
    let failures = 0;
    while (!this.left.signal.aborted) {
      this.told({ kind: 'asking' });
      try {
        const answer = await new Promise((resolve, reject) => {
          settle = { resolve, reject };
          job.start().catch(reject);
        });
        failures = 0;
        if (answer.cycle) await this.#round(job, answer.cycle, examples());
        else if (answer.timeout === undefined || answer.timeout === null) return 'over';
        else await this.#pause(Math.max(1, answer.timeout), 'waiting');
      } catch (error) {
        if (this.left.signal.aborted) break;
        if (!isUnreachable(error) && ++failures >= TRIES) throw error;
        this.told({ kind: 'trouble', error });
        await this.#pause(AGAIN, 'waiting');
      }
    }
    return 'left';
  }

  async #round(job, { model, clientConfig }, examples) {
    const config = settings(clientConfig, this.training, examples.length);
    const values = model.params.reduce((sum, { size }) => sum + size, 0);
    if (values > MANY && tf.env().getBool('WEBGL_RENDER_FLOAT32_ENABLED')) tf.setBackend('webgl');
    this.told({ kind: 'training', round: job.cycleParams.cycle, steps: config.steps, examples: examples.length });
    const updated = await this.#train(job, model, config, examples);
    const diff = await model.createSerializedDiff(updated);
    for (const tensor of [...updated, ...model.params]) tensor.dispose();
    if (this.left.signal.aborted) return;
    await job.report(diff);
    this.told({ kind: 'reported', values, bytes: diff.byteLength });
  }

  async #train(job, model, config, examples) {
    const plan = job.plans.training_plan ?? Object.values(job.plans)[0];
    const features = examples[0].x.length;
    const lr = config.lr || tf.tensor1d([0]); // syft.js takes a number 0 for none
    let params = model.params.map((tensor) => tensor.clone());
    let [step, first] = [0, null];
    for (const places of batches(examples.length, config.batchSize, config.epochs, config.most)) {
      if (this.left.signal.aborted) break;
      const x = new Float32Array(places.length * features);
      const y = new Float32Array(places.length * config.classes);
      places.forEach((place, row) => {
        x.set(examples[place].x, row * features);
        y[row * config.classes + examples[place].label] = 1;
      });
      const [X, Y] = [tf.tensor2d(x, [places.length, features]), tf.tensor2d(y, [places.length, config.classes])];
      const outputs = await plan.execute(job.worker, X, Y, places.length, lr, ...params);
      const [[loss], [accuracy]] = await Promise.all(outputs.slice(0, 2).map((tensor) => tensor.data()));
      for (const tensor of [X, Y, outputs[0], outputs[1], ...params]) tensor.dispose();
      params = outputs.slice(2);
      first ??= loss;
      this.told({ kind: 'step', step: ++step, loss, first, accuracy });
      await new Promise((resolve) => setTimeout(resolve)); // the page lives on
    }
    return params;
  }

  async #pause(seconds, kind) {
    for (let left = Math.ceil(seconds); left > 0 && !this.left.signal.aborted; left--) {
      this.told({ kind, left, of: Math.ceil(seconds) });
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, 1000);
        this.left.signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
      });
    }
  }
}

function settings(config, training, count) {
  const batchSize = config.batch_size ?? 32;
  const epochs = config.max_epochs ?? 1;
  const most = config.max_updates ?? Infinity;
  const steps = Math.min(most, epochs * Math.ceil(count / batchSize));
  return { batchSize, epochs, most, steps, lr: config.lr ?? training.lr, classes: training.classes };
}

/** Whether the node couldn't be asked at all: what browsers say for that. */
export function isUnreachable(error) {
  return error instanceof TypeError && /fetch|network|load failed/i.test(error.message);
}
