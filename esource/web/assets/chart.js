// Events per second over the last minute: a bar for each second, the newest at the right.

const SECONDS = 60
const BAR = 3
const HEIGHT = 32
const SVG = 'http://www.w3.org/2000/svg'

export class Chart {
  constructor(svg) {
    this.svg = svg
    this.counts = new Array(SECONDS).fill(0)
    this.now = 0 // events of the second that has not ended
    svg.setAttribute('viewBox', `0 0 ${SECONDS * (BAR + 1) - 1} ${HEIGHT}`)
    this.bars = this.counts.map((_, second) => {
      const bar = svg.appendChild(document.createElementNS(SVG, 'rect'))
      bar.setAttribute('x', second * (BAR + 1))
      bar.setAttribute('width', BAR)
      return bar
    })
    this.draw()
  }

  clear() {
    this.counts.fill(0)
    this.now = 0
    this.draw()
  }

  // End a second; return how many events it had.
  tick() {
    const count = this.now
    this.now = 0
    this.counts.shift()
    this.counts.push(count)
    this.draw()
    return count
  }

  get peak() {
    return Math.max(...this.counts)
  }

  draw() {
    const most = this.peak
    this.counts.forEach((count, second) => {
      const height = count ? Math.max(2, (count / most) * HEIGHT) : 1
      this.bars[second].setAttribute('height', height)
      this.bars[second].setAttribute('y', HEIGHT - height)
      this.bars[second].classList.toggle('none', !count)
    })
    const text = `Events per second over the last minute: at most ${most}`
    this.svg.setAttribute('aria-label', text)
  }
}
