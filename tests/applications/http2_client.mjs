// Node's HTTP/2 client, one case a run: node http2_client.mjs CASE URL CA-CERTS ARGUMENT (CA-CERTS may be "")
// The last line printed is JSON: what happened. test_http2_node.py judges it.
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http2 from "node:http2";
import { setTimeout as sleep } from "node:timers/promises";

const { NGHTTP2_CANCEL, NGHTTP2_NO_ERROR } = http2.constants;
const TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10;
const MASKED = 0x80, FIN = 0x80;

const [name, url, ca, argument] = process.argv.slice(2);

// --- frames (RFC 6455 §5.2)

function frame(opcode, payload = "", { fin = true, masked = true } = {}) {
  const data = Buffer.from(payload);
  const long = data.length > 65535 ? 127 : data.length > 125 ? 126 : data.length;
  const head = Buffer.alloc(long === 127 ? 10 : long === 126 ? 4 : 2);
  head[0] = (fin ? FIN : 0) | opcode;
  head[1] = (masked ? MASKED : 0) | long;
  if (long === 126) head.writeUInt16BE(data.length, 2);
  if (long === 127) head.writeBigUInt64BE(BigInt(data.length), 2);
  if (!masked) return Buffer.concat([head, data]);
  const mask = randomBytes(4);
  for (let at = 0; at < data.length; at++) data[at] ^= mask[at & 3];
  return Buffer.concat([head, mask, data]);
}

function closing(code, reason = "") {
  const payload = Buffer.alloc(2 + reason.length);
  payload.writeUInt16BE(code);
  payload.write(reason, 2);
  return frame(CLOSE, payload);
}

// What comes on a stream, when it is asked for: nothing is read, and no window opened, ahead of that.
class Receiver {
  constructor(stream) {
    this.stream = stream;
    this.pieces = stream[Symbol.asyncIterator]();
    this.held = Buffer.alloc(0);
  }

  async take(size) {
    while (this.held.length < size) {
      const { value, done } = await this.pieces.next();
      if (done) return null;
      this.held = Buffer.concat([this.held, value]);
    }
    const taken = this.held.subarray(0, size);
    this.held = this.held.subarray(size);
    return taken;
  }

  async rest() {
    const all = [this.held];
    for (let next; !(next = await this.pieces.next()).done; ) all.push(next.value);
    return Buffer.concat(all);
  }

  // A frame as [opcode, payload]; null at the stream's end.
  async frame() {
    const head = await this.take(2);
    if (head === null) return null;
    if (head[1] & MASKED) throw new Error("the server masked a frame");
    if (!(head[0] & FIN)) throw new Error("the server fragmented a message");
    let size = head[1] & 127;
    if (size === 126) size = (await this.take(2)).readUInt16BE();
    else if (size === 127) size = Number((await this.take(8)).readBigUInt64BE());
    return [head[0] & 15, await this.take(size)];
  }

  async text() {
    const [opcode, payload] = await this.frame();
    return opcode === TEXT ? payload.toString() : `opcode ${opcode}: ${payload.toString("hex")}`;
  }

  // [1000, "reason"] of the Close that must come now
  async close() {
    const next = await this.frame();
    if (next === null) return "the stream ended without a Close";
    const [opcode, payload] = next;
    return opcode === CLOSE ? [payload.readUInt16BE(), payload.subarray(2).toString()] : `opcode ${opcode}`;
  }
}

// --- sessions

const heads = new WeakMap(); // stream => promise of the answer's
const ends = new WeakMap(); // stream => promise of what became of it, once nothing more can

// A request's stream, without an end.
function begin(session, request, options = {}) {
  const stream = session.request(request, { endStream: false, ...options });
  let failure = null;
  stream.on("error", (error) => (failure = error.code));
  const end = () => ({ code: stream.rstCode, failure, ended: stream.readableEnded });
  ends.set(stream, new Promise((resolve) => stream.once("close", () => resolve(end()))));
  const unanswered = over(stream).then((end) => Promise.reject(new Error(`no answer: ${JSON.stringify(end)}`)));
  const head = new Promise((resolve) => stream.once("response", (head) => resolve({ ...head })));
  heads.set(stream, Promise.race([head, unanswered]));
  unanswered.catch(() => {}); // nobody may ask
  heads.get(stream).catch(() => {});
  return stream;
}

const over = (stream) => ends.get(stream);

// The answer's head, and what comes behind it.
async function answered(stream) {
  return { stream, head: await heads.get(stream), receiver: new Receiver(stream) };
}

function opening(session, path, fields = {}, options = {}) {
  const request = {
    ":method": "CONNECT", ":protocol": "websocket", ":path": path, ":authority": new URL(url).host,
    "sec-websocket-version": "13", origin: url, ...fields,
  };
  return begin(session, request, options);
}

async function websocket(session, path = "/", fields = {}) {
  return answered(opening(session, path, fields));
}

// A round trip: what was sent before it has been read.
async function ping(session, payload = Buffer.from("12345678")) {
  return new Promise((resolve, reject) =>
    session.ping(payload, (error, _, came) => (error ? reject(error) : resolve(came.equals(payload)))),
  );
}

async function get(session, path) {
  const { head, receiver } = await answered(begin(session, { ":path": path }, { endStream: true }));
  return [head[":status"], (await receiver.rest()).toString()];
}

// Whether another WebSocket on the connection answers
async function lives(session) {
  const { stream, receiver } = await websocket(session);
  stream.write(frame(TEXT, "still here"));
  const said = await receiver.text();
  stream.end(closing(1000));
  await receiver.close();
  return said;
}

// What the application saw of the end of the WebSocket at *path*
async function closeCode(session, path) {
  for (let tries = 0; tries < 200; tries++) {
    const codes = JSON.parse((await get(session, "/closed"))[1]);
    if (path in codes) return codes[path];
    await sleep(50);
  }
  return "never";
}

const digest = (...pieces) => pieces.reduce((hash, piece) => hash.update(piece), createHash("sha256")).digest("hex");

// --- cases: (session, argument) => what happened

const cases = {
  async settings(session) {
    return { ...session.remoteSettings };
  },

  async echo(session) {
    const { stream, head, receiver } = await websocket(session, "/echo");
    const echoes = [];
    const large = randomBytes(70_000);
    stream.write(frame(TEXT, "grüße"));
    echoes.push(await receiver.text());
    stream.write(frame(BINARY, large));
    const [opcode, payload] = await receiver.frame();
    echoes.push([opcode, payload.equals(large)]);
    // Fragments, with a ping between them, byte by byte
    const fragments = [frame(TEXT, "frag", { fin: false }), frame(PING, "?"), frame(0, "ments")];
    for (const byte of Buffer.concat(fragments)) stream.write(Buffer.of(byte));
    const [pong, said] = await receiver.frame();
    echoes.push([pong === PONG, said.toString()], await receiver.text());
    stream.write(frame(TEXT, ""));
    echoes.push(await receiver.text());
    stream.write(closing(1000, "bye"));
    const close = await receiver.close();
    const rest = await receiver.rest(); // the server ends its side without waiting for ours
    stream.end();
    return { head, echoes, close, rest: rest.length, over: await over(stream), seen: await closeCode(session, "/echo") };
  },

  async subprotocol(session) {
    const { stream, head } = await websocket(session, "/chat", { "sec-websocket-protocol": "soup, chat" });
    stream.close(NGHTTP2_CANCEL);
    return head;
  },

  // Frames may be on their way before the answer is.
  async early(session) {
    const stream = opening(session, "/early");
    stream.write(frame(TEXT, "in advance"));
    stream.end(closing(1000));
    const { head, receiver } = await answered(stream);
    return [head[":status"], await receiver.text(), await receiver.close(), (await receiver.rest()).length];
  },

  // Over with its first frame: there is nobody who would send any
  async ended(session) {
    const { head, receiver } = await answered(opening(session, "/ended", {}, { endStream: true }));
    const rest = await receiver.rest();
    return { status: head[":status"], rest: rest.length, seen: await closeCode(session, "/ended") };
  },

  // The answer when the handshake, or its page, is not to the server's liking
  async refused(session, fields) {
    const stream = opening(session, "/refused", JSON.parse(fields));
    stream.write(frame(TEXT, "in advance"));
    const { head, receiver } = await answered(stream);
    return [head[":status"], (await receiver.rest()).toString(), await lives(session)];
  },

  async server_closes(session) {
    const { stream, receiver } = await websocket(session, "/bye");
    const close = await receiver.close();
    stream.write(closing(close[0]));
    const rest = await receiver.rest();
    stream.end();
    return { close, rest: rest.length, over: await over(stream) };
  },

  async half_close(session) {
    const { stream, receiver } = await websocket(session, "/half");
    stream.end(frame(TEXT, "last words"));
    const said = await receiver.text();
    const rest = await receiver.rest().catch((error) => error.code);
    return {
      said, rest: rest.length ?? rest, closed: typeof (await over(stream)).code,
      seen: await closeCode(session, "/half"), lives: await lives(session),
    };
  },

  async reset(session) {
    const { stream, receiver } = await websocket(session, "/reset");
    stream.write(frame(TEXT, "hello"));
    const said = await receiver.text();
    stream.close(NGHTTP2_CANCEL);
    await over(stream);
    return { said, seen: await closeCode(session, "/reset"), lives: await lives(session) };
  },

  // The application writes, and nobody reads
  async reset_while_writing(session) {
    const { stream } = await websocket(session, "/pours");
    await sleep(300);
    stream.close(NGHTTP2_CANCEL);
    await over(stream);
    return { seen: await closeCode(session, "/pours"), lives: await lives(session) };
  },

  async unmasked(session) {
    const { stream, receiver } = await websocket(session, "/unmasked");
    stream.write(frame(TEXT, "bare", { masked: false }));
    const close = await receiver.close();
    const rest = await receiver.rest();
    stream.end();
    await over(stream);
    return { code: close[0], rest: rest.length, seen: await closeCode(session, "/unmasked"), lives: await lives(session) };
  },

  async protocol(session, name) {
    const { stream, head, receiver } = await answered(opening(session, "/lines", { ":protocol": name }));
    let said = null;
    if (head[":status"] === 200) {
      stream.end("raw bytes\n");
      said = (await receiver.rest()).toString();
    } else await receiver.rest();
    stream.close();
    return { status: head[":status"], said, page: await get(session, "/") };
  },

  async unaccepted(session) {
    const { stream, head, receiver } = await answered(opening(session, "/", { ":protocol": "soup" }));
    await receiver.rest();
    stream.close();
    return { status: head[":status"], page: await get(session, "/") };
  },

  async connect(session, authority) {
    const stream = begin(session, { ":method": "CONNECT", ":authority": authority });
    const { head, receiver } = await answered(stream);
    const result = { status: head[":status"] };
    if (result.status === 200) {
      const sent = randomBytes(1 << 20);
      stream.write(sent);
      result.echoed = (await receiver.take(sent.length)).equals(sent);
      stream.end();
      result.farewell = (await receiver.rest()).toString();
      result.over = await over(stream);
    } else {
      await receiver.rest();
      stream.close();
    }
    return result;
  },

  async connect_reset(session, authority) {
    const stream = begin(session, { ":method": "CONNECT", ":authority": authority });
    const { receiver } = await answered(stream);
    stream.write("reset me");
    const said = (await receiver.take(8)).toString();
    stream.close(NGHTTP2_CANCEL);
    await over(stream);
    return said;
  },

  // 4 MiB of echo are not read for a while: they arrive whole, and other streams do not wait for them.
  async window(session) {
    const { stream, receiver } = await websocket(session, "/window");
    const messages = Array.from({ length: 64 }, () => randomBytes(65_536));
    for (const message of messages) stream.write(frame(BINARY, message));
    const pages = [];
    for (let count = 0; count < 10; count++) {
      pages.push((await get(session, "/"))[0]);
      await sleep(100);
    }
    const ahead = stream.readableLength;
    const echoes = [];
    for (const _ of messages) echoes.push((await receiver.frame())[1]);
    stream.end(closing(1000));
    return { pages, ahead, whole: digest(...echoes) === digest(...messages), close: await receiver.close() };
  },

  // Nothing is ever read: the stream is given up, and only that.
  async stalled(session) {
    const { stream } = await websocket(session, "/pours");
    const result = await over(stream);
    return { code: result.code, seen: await closeCode(session, "/pours"), lives: await lives(session) };
  },

  // A hundred at once, all over one connection
  async many(session) {
    const talk = async (number) => {
      const { stream, receiver } = await websocket(session, "/many");
      const said = [];
      for (let count = 0; count < 5; count++) {
        stream.write(frame(TEXT, `${number}.${count}`));
        said.push(await receiver.text());
      }
      stream.end(closing(1000));
      return said.every((text, count) => text === `${number}.${count}`) && (await receiver.close())[0] === 1000;
    };
    return (await Promise.all(Array.from({ length: 100 }, (_, number) => talk(number)))).filter(Boolean).length;
  },

  // --- ordinary requests

  async post(session) {
    const sent = randomBytes(1 << 20);
    const stream = begin(session, { ":method": "POST", ":path": "/post" });
    stream.end(sent);
    const { head, receiver } = await answered(stream);
    const came = await receiver.rest();
    return { status: head[":status"], whole: came.equals(sent), over: await over(stream) };
  },

  async trailers(session) {
    const request = { ":method": "POST", ":path": "/trailers", te: "trailers", trailer: "x-sum" };
    const stream = begin(session, request, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-sum": "42", "x-more": ["a", "b"] }));
    const trailers = once(stream, "trailers");
    stream.end("content");
    const { head, receiver } = await answered(stream);
    const content = JSON.parse((await receiver.rest()).toString());
    return { declared: head.trailer, content, trailers: { ...(await trailers)[0] }, over: await over(stream) };
  },

  async hints(session) {
    const stream = begin(session, { ":path": "/hints" }, { endStream: true });
    const order = [];
    stream.on("headers", (head) => order.push({ ...head }));
    const { head, receiver } = await answered(stream);
    order.push(head[":status"]);
    return { order, content: (await receiver.rest()).toString() };
  },

  async push(session) {
    const pushed = new Promise((resolve) =>
      session.on("stream", async (stream, request) => {
        const receiver = new Receiver(stream);
        const [head] = await once(stream, "push");
        resolve([request[":path"], request["x-why"], head[":status"], (await receiver.rest()).toString()]);
      }),
    );
    const [, answer] = await get(session, "/push");
    return [answer, answer === "True" ? await pushed : null];
  },

  async expect(session) {
    const request = { ":method": "POST", ":path": "/post", expect: "100-continue", "content-length": "7" };
    const stream = begin(session, request);
    await once(stream, "continue");
    stream.end("go then");
    const { head, receiver } = await answered(stream);
    return [head[":status"], (await receiver.rest()).toString()];
  },

  ping: (session) => ping(session),

  // Our own GOAWAY: we take no pushes any more, and what runs goes on (RFC 9113 §6.8).
  async goaway(session) {
    const { stream, receiver } = await websocket(session, "/goaway");
    const upload = begin(session, { ":method": "POST", ":path": "/post" });
    upload.write("before, ");
    await ping(session);
    session.goaway(NGHTTP2_NO_ERROR);
    await ping(session);
    stream.write(frame(TEXT, "after"));
    upload.end("after");
    const { receiver: content } = await answered(upload);
    const said = [await receiver.text(), (await content.rest()).toString()];
    stream.end(closing(1000));
    await receiver.close();
    return said;
  },

  // Prints a line when all is running, and then the server is stopped.
  async stop(session) {
    const leaving = [];
    session.on("goaway", (code, last) => leaving.push([code, last]));
    const socket = await websocket(session, "/stop");
    socket.stream.write(frame(TEXT, "running"));
    const running = [await socket.receiver.text()];
    const download = await answered(begin(session, { ":path": "/drain" }, { endStream: true }));
    running.push((await download.receiver.take(5)).toString());
    const upload = begin(session, { ":method": "POST", ":path": "/post" });
    upload.write("first, ");
    const goaway = once(session, "goaway");
    console.log(JSON.stringify(running));
    await goaway;
    upload.end("last");
    const { receiver: content } = await answered(upload);
    const close = await socket.receiver.close();
    socket.stream.end(closing(close[0]));
    const whole = [(await download.receiver.rest()).toString(), (await content.rest()).toString()];
    const codes = [await over(download.stream), await over(upload), await over(socket.stream)].map(({ code }) => code);
    if (!session.destroyed) await once(session, "close");
    return { leaving, whole, close, codes };
  },
};

const settings = { enablePush: argument !== "no-push" };
const session = http2.connect(url, { ca: ca ? readFileSync(ca) : undefined, settings });
await once(session, "remoteSettings");
console.log(JSON.stringify(await cases[name](session, argument)));
session.destroy();
