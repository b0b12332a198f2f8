// The form that publishes an event.

import { publishLine } from './curl.js'
import { $, showLine, write } from './dom.js'
import * as hub from './hub.js'

const FIELDS = ['to', 'to-type', 'to-id', 'data']

export class Publish {
  constructor() {
    this.form = $('form')
    for (const id of FIELDS) $(id).addEventListener('input', () => this.showLine())
    this.form.addEventListener('submit', (event) => {
      event.preventDefault()
      this.publish()
    })
    this.form.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return
      event.preventDefault()
      this.form.requestSubmit()
    })
    this.showLine()
  }

  // Offer a channel: the one that is shown.
  suggest(channel) {
    $('to').value = channel ?? ''
    write($('published'), '')
    this.showLine()
  }

  values() {
    return FIELDS.map((id) => $(id).value)
  }

  showLine() {
    const [channel, type, id, data] = this.values()
    showLine($('publish-curl'), publishLine(channel || 'NAME', type, id, data))
  }

  async publish() {
    const result = $('published')
    write(result, '')
    result.dataset.state = ''
    try {
      const id = await hub.publish(...this.values())
      write(result, `Stored as ${id}`)
      $('to-id').value = '' // the next one is another
      this.showLine()
    } catch (error) {
      result.dataset.state = 'failed'
      write(result, error.message)
    }
  }
}
