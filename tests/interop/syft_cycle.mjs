// One data holder with the unmodified syft.js: asks for work, trains, reports. Runs in Node.js and in a browser's page.

const base64 = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)));

// The steps that client_config tells, all on the one batch of the order.
async function train(tf, job, { model, clientConfig }, order) {
  const [X, y] = [tf.tensor2d(order.X), tf.tensor2d(order.y)];
  const metrics = [];
  let params = model.params.map((param) => param.clone());
  for (let step = 0; step < clientConfig.max_updates; step++) {
    const plan = job.plans.training_plan;
    const [loss, accuracy, ...next] = await plan.execute(job.worker, X, y, order.X.length, clientConfig.lr, ...params);
    metrics.push({ loss: (await loss.data())[0], accuracy: (await accuracy.data())[0] });
    params = next;
  }
  return { metrics, params, diff: await model.createSerializedDiff(params) };
}

// What is said to one who reports a second time, the same and then something else, and to one who then asks again.
async function insist(tf, job, start, { model }, { params, diff }) {
  const said = (answer) => answer.then(() => 'taken', (error) => error.message);
  const other = await model.createSerializedDiff(params.map((param) => tf.mul(param, 2)));
  return { same: await said(job.report(diff)), other: await said(job.report(other)), next: await start() };
}

// The order is {url, name, version, token, X: [[...]], y: [[...]], insist}.
export async function run(tf, Syft, order) {
  // "verbose" is what lets syft.js use addresses without TLS
  const client = new Syft({ url: order.url, verbose: true, authToken: order.token });
  client.logger.verbose = false;
  const job = await client.newJob({ modelName: order.name, modelVersion: order.version });
  const known = { worker_id: client.worker_id, speed_test: client.requires_speed_test };
  let settle;
  job.on('accepted', (offer) => settle({ offer }));
  job.on('rejected', ({ timeout }) => settle({ outcome: 'rejected', timeout: timeout ?? null }));
  job.on('error', (error) => settle({ outcome: 'error', error: error.message }));
  const start = () => new Promise((resolve, reject) => {
    settle = resolve;
    job.start().catch(reject);
  });
  const { offer, ...refused } = await start();
  if (!offer) return { ...refused, ...known };
  const trained = await train(tf, job, offer, order);
  await job.report(trained.diff);
  const again = order.insist ? await insist(tf, job, start, offer, trained) : null;
  return { outcome: 'reported', ...known, metrics: trained.metrics, diff: base64(trained.diff), again };
}
