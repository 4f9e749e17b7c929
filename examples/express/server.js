// A chat room: a page, its messages over a WebSocket at /chat, and a streamed download.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { pipeline, Readable } from "node:stream";
import express from "express";
import { WebSocketServer } from "ws";

const built = JSON.parse(await readFile("build/info.json", "utf8"));
const app = express();
app.disable("x-powered-by");
app.use(express.static("public"));

app.get("/healthz", (_request, response) => response.json({ ok: true }));
app.get("/info", (request, response) =>
  response.json({ pid: process.pid, built, host: request.headers.host, via: request.headers["x-forwarded-for"] }));

// So many zeros, written as fast as the visitor reads them.
function* zeros(bytes) {
  const chunk = Buffer.alloc(64 * 1024);
  for (let left = bytes; left > 0; left -= chunk.length) yield chunk.subarray(0, Math.min(left, chunk.length));
}

app.get("/download/:bytes", (request, response) => {
  const bytes = Math.min(Number(request.params.bytes) || 0, 1 << 30);
  response.set({ "content-type": "application/octet-stream", "content-length": String(bytes) });
  // A visitor who leaves early is no fault of ours.
  pipeline(Readable.from(zeros(bytes)), response, () => {});
});

const server = createServer(app);
const chat = new WebSocketServer({ server, path: "/chat", maxPayload: 64 * 1024 });

chat.on("connection", (socket) => {
  socket.on("message", (text) => {
    for (const other of chat.clients) {
      if (other.readyState === other.OPEN) other.send(text.toString());
    }
  });
});

const port = Number(process.env.PORT ?? 3000);
server.listen(port, "0.0.0.0", () => console.log(`listening on ${port}`));

// Asked to end: no new connections, the open ones are closed, then out.
process.on("SIGTERM", () => {
  console.log("ending");
  for (const socket of chat.clients) socket.close(1001, "restarting");
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
