// node follow.mjs URL NAME...
//
// Follow a channel with the npm package `eventsource`, which reconnects by itself. A line of
// JSON for each event, [id, type, data], and `null` whenever the stream is open. Only events of
// the given names and of `message`, which is also the name of those that have none: to the
// others an EventSource is deaf.

import { EventSource } from 'eventsource'

const [url, ...names] = process.argv.slice(2)
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n')

const source = new EventSource(url)
source.onopen = () => print(null)
source.onerror = ({ message }) => {
  console.error(message ?? 'the stream has ended')
  if (source.readyState === EventSource.CLOSED) process.exit(1) // it has given up for good
}
for (const name of new Set(['message', ...names])) {
  source.addEventListener(name, ({ lastEventId, type, data }) => print([lastEventId, type, data]))
}
setTimeout(() => process.exit(2), 60_000) // nobody is left to end it
