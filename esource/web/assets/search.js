// A search through a channel that is going on: how far it is, how fast, and its end.

const WORKER = new URL('search-worker.js', import.meta.url)
const MOST_EVENTS = 2000 // found at once

export class Search {
  // From a mark backwards: of so many bytes, or up to the beginning. `onPart` gets what the worker
  // tells of each part, `onEnd` an error's text, or '' if it went well; neither after `stop`.
  constructor(source, mark, text, least, { onPart, onEnd }) {
    Object.assign(this, { from: mark.offset, first: source.first, at: mark.offset, found: 0 })
    this.began = performance.now()
    this.worker = new Worker(WORKER, { type: 'module' })
    this.worker.onmessage = ({ data }) => {
      if (data.events) {
        this.at = data.start.offset
        this.found += data.events.length
        onPart(data)
      } else {
        this.stop()
        onEnd(data.error ?? '')
      }
    }
    this.worker.onerror = () => {
      this.stop()
      onEnd('The search could not begin.')
    }
    this.worker.postMessage({ source: source.plain, mark, text, least, most: MOST_EVENTS })
  }

  stop() {
    this.worker.terminate()
  }

  // Bytes looked through, and those that there are.
  get looked() {
    return this.from - this.at
  }

  get all() {
    return this.from - this.first
  }

  // Bytes a second.
  get rate() {
    return (this.looked * 1000) / (performance.now() - this.began)
  }
}
