/**
 * Parse the server-sent events of a `fetch`. Unlike `EventSource`, `fetch` can send a body, so that
 * no URL contains a token.
 *
 * Source: the HTML standard, section 9.2.6.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<{type: string, data: string}>}
 */
export async function* parseEvents(body) {
  let event = { type: "message", data: [] };
  for await (const line of linesOf(body)) {
    if (line === "") {
      if (event.data.length > 0) yield { type: event.type, data: event.data.join("\n") };
      event = { type: "message", data: [] };
      continue;
    }
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === "event") event.type = value;
    else if (name === "data") event.data.push(value);
  }
}

async function* linesOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = decoder.decode(value, { stream: true }).split("\n");
      // A long line arrives in many pieces, which are joined once.
      for (const line of lines.slice(0, -1)) {
        yield [...rest, line].join("").replace(/\r$/, "");
        rest = [];
      }
      rest.push(lines.at(-1));
    }
  } finally {
    reader.cancel().catch(() => {}); // fails if the response was aborted or broken
  }
}
