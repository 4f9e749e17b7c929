// Two worker threads that count, and a client that keeps its connections to a second server of the app alive.
const http = require("node:http");
const { Worker, isMainThread, parentPort } = require("node:worker_threads");

if (!isMainThread) {
  let count = 0;
  parentPort.on("message", (number) => {
    count += 1;
    parentPort.postMessage({ number, count });
  });
} else {
  const workers = [new Worker(__filename), new Worker(__filename)];
  const waiting = new Map();
  let asked = 0;
  for (const worker of workers) {
    worker.on("message", ({ number, count }) => {
      waiting.get(number)(count);
      waiting.delete(number);
    });
  }
  const ask = (worker) => new Promise((resolve) => {
    asked += 1;
    waiting.set(asked, resolve);
    worker.postMessage(asked);
  });

  const inner = http.createServer((_request, response) => response.end("inner"));
  inner.keepAliveTimeout = 3600 * 1000;
  inner.listen(9000, "127.0.0.1");
  const agent = new http.Agent({ keepAlive: true });
  // A connection that broke while nobody used it is a client's ordinary life: asked again, once.
  const fetchInner = (again = true) => new Promise((resolve, reject) => {
    const request = http.get({ agent, port: 9000, host: "127.0.0.1" }, (response) => {
      response.resume();
      response.on("end", resolve);
    });
    request.on("error", (error) => {
      if (again && request.reusedSocket) resolve(fetchInner(false));
      else reject(error);
    });
  });

  const server = http.createServer(async (_request, response) => {
    try {
      const [first, second] = await Promise.all(workers.map(ask));
      await fetchInner();
      if (first !== second) throw new Error(`the workers counted ${first} and ${second}`);
      response.end(`pid=${process.pid} count=${first}`);
    } catch (error) {
      response.writeHead(500);
      response.end(String(error));
    }
  });
  server.listen(process.env.PORT);
}
