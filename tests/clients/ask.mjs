// node ask.mjs URL
//
// Publish to a channel with axios and read it, all by its defaults. A line of JSON for each answer:
// [status, content type, id in the header, data].

import axios from 'axios'

const url = process.argv[2]
for (const { status, headers, data } of [
  await axios.post(url, { order: 17, goods: ['tee', 'küchlein'] }),
  await axios.post(`${url}?id=18`, 'the bill'),
  await axios.get(url),
]) {
  console.log(JSON.stringify([status, headers['content-type'], headers['last-event-id'], data]))
}
