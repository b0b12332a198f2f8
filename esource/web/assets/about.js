// What the hub says of itself: its version, where its documentation is, and whether it can store
// events.

import { $, write } from './dom.js'
import * as hub from './hub.js'

export async function showHealth() {
  const { problems = [], gaps = [] } = await hub.health()
  const isWell = !problems.length
  $('health').dataset.state = isWell ? 'good' : 'bad'
  write($('health'), isWell ? (gaps.length ? 'Healthy, with gaps' : 'Healthy') : problems[0])
  $('health').title = [...problems, ...gaps].join('\n')
}

export async function showVersion() {
  const { version, documentation } = await hub.about()
  write($('version'), `esource ${version}`)
  if (!/^https?:/.test(documentation)) return
  $('documentation').href = documentation
  $('documentation').hidden = false
}
