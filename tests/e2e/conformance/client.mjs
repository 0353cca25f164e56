// What the published client does with a gateway; prints what it saw as JSON.
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"

const [path, run, token] = process.argv.slice(2)
const headers = { Authorization: `Bearer ${token}` }

async function read(url, live, offset) {
  const seen = []
  const response = await stream({ url, headers, live, offset, json: true })
  for await (const item of response.jsonStream()) seen.push(item)
  return seen
}

// A stream of its own: created, written by a producer that may repeat itself, closed.
const handle = await DurableStream.create({ url: path, headers, contentType: "application/json" })
const producer = new IdempotentProducer(handle, "published-client", { lingerMs: 1 })
const following = read(path, "sse", "-1")
for (let n = 0; n < 200; n++) producer.append(JSON.stringify({ n }))
await producer.flush()
await handle.close()

// A run's stream, which its task goes on appending to, in each way of reading.
const ways = await Promise.all(["long-poll", "sse"].map((live) => read(run, live, "-1")))

console.log(JSON.stringify({
  followed: await following,
  caughtUp: await read(path, false, "-1"),
  ways,
  head: (await DurableStream.head({ url: path, headers })).streamClosed,
}))
