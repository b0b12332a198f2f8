// What a person likes, kept by the browser, if it keeps anything.

const NAME = 'esource'

export function preference(name, otherwise) {
  return read()[name] ?? otherwise
}

export function prefer(name, value) {
  try {
    localStorage.setItem(NAME, JSON.stringify({ ...read(), [name]: value }))
  } catch {
    // It holds for this page.
  }
}

function read() {
  try {
    return JSON.parse(localStorage.getItem(NAME)) ?? {}
  } catch {
    return {}
  }
}
