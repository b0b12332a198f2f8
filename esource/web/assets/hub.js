// The hub, asked by HTTP as anybody would. What goes wrong is an Error with a text for a person.

const FOLDER = new URL('./', document.baseURI) // a gateway may serve the hub below a path
const PATIENCE_SECONDS = 30

// Return the address of a path, with parameters as pairs; those that are undefined are left out.
export function address(path, parameters = []) {
  const query = parameters
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${encodeURIComponent(value).replace(/%3A/g, ':')}`)
  return FOLDER + path + (query.length ? '?' + query.join('&') : '')
}

async function ask(url, options = {}) {
  let response
  try {
    response = await fetch(url, {
      cache: 'no-store',
      signal: AbortSignal.timeout(PATIENCE_SECONDS * 1000),
      ...options,
    })
  } catch {
    throw new Error('The hub does not answer.')
  }
  if (response.ok) return response
  // A gateway answers with a page; the hub with a line, but for a HEAD.
  const isText = response.headers.get('Content-Type')?.startsWith('text/plain')
  const text = isText ? (await response.text()).trim() : ''
  const error = new Error(`The hub says ${response.status}: ${text || response.statusText}.`)
  error.status = response.status
  throw error
}

// Return a page of the list: {channels, total, next}.
export async function channels(parameters) {
  const response = await ask(address('-/channels', parameters), {
    headers: { Accept: 'application/json' },
  })
  return response.json()
}

// Return where a channel ends, in bytes, and the id of its newest event, if that has one.
export async function end(channel) {
  const { headers } = await ask(address(channel), { method: 'HEAD' })
  const id = headers.get('Last-Event-ID') ?? ''
  const bytes = Uint8Array.from(id, (character) => character.charCodeAt(0))
  return { bytes: Number(headers.get('Content-Length')), id: new TextDecoder().decode(bytes) }
}

// Return the bytes of a channel's file from an offset up to another.
export async function range(channel, from, to) {
  if (from === to) return new Uint8Array()
  const response = await ask(address(channel), { headers: { Range: `bytes=${from}-${to - 1}` } })
  const bytes = new Uint8Array(await response.arrayBuffer())
  return response.status === 206 ? bytes : bytes.subarray(from, to)
}

// Publish an event, and return its id.
export async function publish(channel, event, id, data) {
  const url = address(channel, [['event', event || undefined], ['id', id || undefined]])
  const response = await ask(url, { method: 'POST', body: data })
  return (await response.text()).trimEnd()
}
