// node follow.mjs PACKAGE URL NAME...
//
// Follow a channel with a package of npm, across connections. A line of JSON for each event,
// [id, type, data], and `null` whenever the stream is open. Of those like a browser's EventSource
// only events of the given names and of `message`, which is also the name of those that have none:
// to the others they are deaf.

const [name, url, ...names] = process.argv.slice(2)
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n')

function listen(source) {
  source.onopen = () => print(null)
  source.onerror = () => {
    if (source.readyState === 2) process.exit(1) // it has given up for good
  }
  for (const type of new Set(['message', ...names])) {
    source.addEventListener(type, ({ lastEventId, data }) => print([lastEventId, type, data]))
  }
}

const follow = {
  eventsource: ({ EventSource }) => listen(new EventSource(url)),

  'event-source-polyfill': ({ default: { EventSourcePolyfill } }) =>
    listen(new EventSourcePolyfill(url)),

  'eventsource-client': ({ createEventSource }) =>
    createEventSource({
      url,
      onConnect: () => print(null),
      onMessage: ({ id, event, data }) => print([id, event ?? 'message', data]),
    }),

  // Made for a page, of which it wants a little. It comes back by itself only after errors.
  '@microsoft/fetch-event-source': ({ fetchEventSource }) => {
    globalThis.window = globalThis
    globalThis.document = { removeEventListener() {} }
    fetchEventSource(url, {
      openWhenHidden: true,
      onopen: async ({ status }) => print(status === 200 ? null : process.exit(1)),
      onmessage: ({ id, event, data }) => {
        if (!id.startsWith('@')) print([id, event || 'message', data]) // a place is no event
      },
      onclose: () => {
        throw new Error('the stream has ended')
      },
    })
  },
}

follow[name](await import(name))
setTimeout(() => process.exit(2), 60_000) // nobody is left to end it
