// The bytes of a stream, as blocks of whole rows.

const LF = 10
const NONE = new Uint8Array()

const BLOCK_BYTES = 1 << 20

// Yield what has arrived up to the last LF of it, again and again; a block is good until the next one
// is asked for. What is behind the last LF of all is left out. Raises what the stream does.
export async function* blocksOf(stream) {
  const reader = readerOf(stream)
  let rest = NONE
  for (let buffer = new ArrayBuffer(BLOCK_BYTES); ; ) {
    const { value, done } = await reader.read(new Uint8Array(buffer))
    if (done) return
    buffer = value.buffer
    const end = value.lastIndexOf(LF) + 1
    if (end) yield joined(rest, value.subarray(0, end))
    rest = end ? value.slice(end) : joined(rest, value.slice())
  }
}

// Return a reader that fills the same memory again and again, where the browser has such a one: it
// is a quarter faster. Another takes no notice of the memory that it is given.
function readerOf(stream) {
  try {
    return stream.getReader({ mode: 'byob' })
  } catch {
    return stream.getReader()
  }
}

function joined(first, second) {
  if (!first.length) return second
  const both = new Uint8Array(first.length + second.length)
  both.set(first)
  both.set(second, first.length)
  return both
}
