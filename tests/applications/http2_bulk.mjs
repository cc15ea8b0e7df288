// node http2_bulk.mjs up|down URL CA_FILE MIB: so much content over one stream, while others on the same connection
// ask for little, one after the other. Prints what came of it, and what the others had to wait, in milliseconds.
import { readFileSync } from "node:fs"
import { connect } from "node:http2"
import { Readable } from "node:stream"
import { pipeline } from "node:stream/promises"

const [way, url, authority, mib] = process.argv.slice(2)
const client = connect(url, authority ? { ca: readFileSync(authority) } : {})
const PIECE = Buffer.alloc(65536, "geventgate")
let running = true

function ask(path, content) {
  const stream = client.request({ ":path": path, ":method": content ? "POST" : "GET" })
  const sent = content ? pipeline(content, stream) : stream.end()
  const came = (async () => {
    let size = 0, text = ""
    for await (const data of stream) {
      size += data.length
      if (size < 100) text += data
    }
    return { size, text }
  })()
  return Promise.all([came, sent]).then(([answer]) => answer)
}

function* pieces() {
  for (let left = Number(mib) * 16; left > 0; left--) yield PIECE
}

async function others() {
  const waits = []
  while (running) {
    const began = performance.now()
    const { text } = await ask("/sleep?seconds=0")
    if (text !== "slept") throw new Error(`a small request was answered ${JSON.stringify(text)}`)
    waits.push(performance.now() - began)
    await new Promise(done => setTimeout(done, 20))
  }
  return waits.sort((one, other) => one - other)
}

const small = others(), began = performance.now()
const large = way === "up" ? ask("/count", Readable.from(pieces())) : ask(`/pour?mib=${mib}`)
const { size, text } = await large.finally(() => { running = false })
const seconds = (performance.now() - began) / 1000
const waits = await small
console.log(JSON.stringify({
  size: way === "up" ? Number(text) : size, seconds, asked: waits.length,
  median: waits[Math.floor(waits.length / 2)], slowest: waits.at(-1),
}))
client.close()
