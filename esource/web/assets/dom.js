// Elements made without markup: whatever an event holds, it becomes text.

const COPIED = 'Copied'

export const $ = (id) => document.getElementById(id)

// Return a new element with properties and children.
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties)
  element.append(...children)
  return element
}

// Set an element's text, if it is another: screen readers read again what is written again.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text
}

// Fill a place with a line for a shell and a button that copies it.
export function showLine(place, line) {
  if (!place.firstChild) {
    const code = make('code', { tabIndex: 0 })
    code.setAttribute('role', 'group')
    code.setAttribute('aria-label', 'The same with curl')
    place.append(code, copyButton('Copy', () => code.textContent))
  }
  write(place.firstChild, line)
}

// Return a button that copies a text.
export function copyButton(name, text, label) {
  const button = make('button', { type: 'button', textContent: name })
  if (label) button.setAttribute('aria-label', label)
  button.onclick = async () => {
    await copy(text())
    if (button.textContent === COPIED) return // and says its name again soon
    button.textContent = COPIED
    setTimeout(() => (button.textContent = name), 1500)
  }
  return button
}

// Copy a text. Without TLS there is no clipboard but that of the selection.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    const focused = document.activeElement
    const area = make('textarea', { className: 'copied', value: text })
    document.body.append(area)
    area.select()
    document.execCommand('copy')
    area.remove()
    focused?.focus()
  }
}

// Give a person a file.
export function save(name, blob) {
  const url = URL.createObjectURL(blob)
  make('a', { href: url, download: name }).click()
  setTimeout(() => URL.revokeObjectURL(url), 60_000)
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB']

// Return a number of bytes for a person: 999 B, 1.2 kB.
export function bytes(count) {
  let unit = 0
  while (count >= 999.5 && unit < UNITS.length - 1) {
    count /= 1000
    unit++
  }
  return `${unit && count < 99.95 ? count.toFixed(1) : Math.round(count)} ${UNITS[unit]}`
}

export function number(count) {
  return count.toLocaleString('en', { maximumFractionDigits: 0 })
}

// Return a rate for a person: 0, 0.3, 12, 1,204 a second.
export function rate(perSecond) {
  return `${perSecond > 0 && perSecond < 9.95 ? perSecond.toFixed(1) : number(perSecond)}/s`
}
