// The hub, asked by HTTP as anybody would. What goes wrong is an Error with a text for a person.

// From this file's own address: a gateway may serve the hub below a path, and a worker has no page.
const FOLDER = new URL('../../', import.meta.url)
const PATIENCE_SECONDS = 30
const SEARCH_SECONDS = 300 // in which the hub finds what is far away

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

// Return how many bytes are kept of a channel, the id of its newest event, if that has one, and
// whether older ones have been removed, so that there are no ranges.
export async function end(channel) {
  const { headers } = await ask(address(channel), { method: 'HEAD' })
  const id = headers.get('Last-Event-ID') ?? ''
  const bytes = Uint8Array.from(id, (character) => character.charCodeAt(0))
  return {
    bytes: Number(headers.get('Content-Length')),
    id: new TextDecoder().decode(bytes),
    isTrimmed: headers.get('Accept-Ranges') === 'none',
  }
}

// Return the bytes of a channel's file from an offset up to another.
export async function range(channel, from, to) {
  if (from === to) return new Uint8Array()
  const response = await ranged(channel, from, to)
  const bytes = new Uint8Array(await response.arrayBuffer())
  return response.status === 206 ? bytes : bytes.subarray(from, to)
}

// Return the same as a stream.
export async function rangeStream(channel, from, to) {
  const response = await ranged(channel, from, to)
  if (response.status === 206) return response.body
  return new Blob([(await response.blob()).slice(from, to)]).stream() // something knows no ranges
}

async function ranged(channel, from, to) {
  const response = await ask(address(channel), { headers: { Range: `bytes=${from}-${to - 1}` } })
  if (response.headers.get('Accept-Ranges') !== 'none') return response
  response.body.cancel()
  throw new Error('The oldest events were removed meanwhile.')
}

// Return the place where a read begins: {place, offset}. Its events are not read.
export async function place(channel, parameters) {
  const asked = [['format', 'sse'], ['follow', 0], ['prime', 1], ['limit', 0], ...parameters]
  const response = await ask(address(channel, asked), {
    signal: AbortSignal.timeout(SEARCH_SECONDS * 1000),
  })
  const [, found, offset] = /^id: (@.+-(\d+))$/m.exec(await response.text())
  return { place: found, offset: Number(offset) }
}

// Return the bytes of rows of a type, or of all if that is undefined.
export async function rows(channel, type, parameters) {
  const stream = await rowsStream(channel, type, parameters)
  return new Uint8Array(await new Response(stream).arrayBuffer())
}

// Return the same as a stream.
export async function rowsStream(channel, type, parameters) {
  const url = address(channel, [['format', 'tsv'], ['event', type], ...parameters])
  return (await ask(url, { signal: AbortSignal.timeout(SEARCH_SECONDS * 1000) })).body
}

// Return the whole of a channel, or of one type of its events, as a stream of bytes, and how many
// these are, if that is known.
export async function download(channel, type, signal) {
  const url = address(channel, [['format', 'tsv'], ['event', type]])
  const response = await ask(url, { signal })
  return { stream: response.body, length: Number(response.headers.get('Content-Length')) || null }
}

// Return what the hub says of its health: {status, problems, gaps}, also if it is not well.
export async function health() {
  const options = { headers: { Accept: 'application/json' }, cache: 'no-store' }
  return (await fetch(address('-/health'), options)).json()
}

// Return what the hub says of itself: {version, documentation}, the address of the latter if it
// knows that.
export async function about() {
  const { info, externalDocs } = await (await ask(address('-/openapi.json'))).json()
  return { version: info.version, documentation: externalDocs?.url }
}

// Publish an event, and return its id.
export async function publish(channel, event, id, data) {
  const url = address(channel, [['event', event || undefined], ['id', id || undefined]])
  const response = await ask(url, { method: 'POST', body: data })
  return (await response.text()).trimEnd()
}
