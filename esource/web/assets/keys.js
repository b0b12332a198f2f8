// Keys that work wherever one is in the page, but for fields, where they are text.

import { $ } from './dom.js'

// `actions` by key; one that returns false did nothing with it.
export function listen(actions) {
  $('keys').onclick = () => $('keys-dialog').showModal()
  const all = { '?': () => $('keys-dialog').showModal(), ...actions }
  document.addEventListener('keydown', (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return
    if (event.target.closest('input, textarea, select, dialog')) return
    const action = all[event.key]
    if (action && action() !== false) event.preventDefault()
  })
}
