// Times, as a person at this place has them. An id is one if it is a whole date with its zone.

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.(\d+))?)?(?:Z|[+-]\d\d:\d\d)$/

// Return when an id is, in milliseconds since 1970; null if it is no time.
export function momentOf(id) {
  const moment = TIME.test(id) ? Date.parse(id) : NaN
  return Number.isNaN(moment) ? null : moment
}

const two = (count) => String(count).padStart(2, '0')

// Return the local time of day, to the millisecond.
export function timeOf(moment) {
  const date = new Date(moment)
  const parts = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two)
  return `${parts.join(':')}.${String(date.getMilliseconds()).padStart(3, '0')}`
}

// Return what tells local days apart: 2026-01-31.
export function dateOf(moment) {
  const date = new Date(moment)
  return [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join('-')
}

const DAY = new Intl.DateTimeFormat('en-GB', { dateStyle: 'full' })

// Return a local day for a person: Saturday, 31 January 2026.
export function dayOf(moment) {
  return DAY.format(moment)
}

// Return a moment for a person, with the zone: 2026-01-31 10:00:00.000 +01:00.
export function fullTimeOf(moment) {
  const minutes = -new Date(moment).getTimezoneOffset()
  const zone = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60].map(two).join(':')
  return `${dateOf(moment)} ${timeOf(moment)} ${minutes < 0 ? '−' : '+'}${zone}`
}

// Return how long ago a moment is.
export function agoOf(moment) {
  const seconds = (Date.now() - moment) / 1000
  if (seconds < -2) return fullTimeOf(moment)
  if (seconds < 2) return 'now'
  if (seconds < 60) return `${Math.round(seconds)} s ago`
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h ago`
  return dateOf(moment)
}
