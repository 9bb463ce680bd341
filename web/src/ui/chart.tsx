import './chart.css'
import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { clock } from '../lib/format'

export interface Line { label: string; values: (number | null)[]; color: 1 | 2 | 3 }
// Limit is drawn across the chart: a threshold, with what it is.
export interface Limit { label: string; value: number; tone: 'warn' | 'bad' }

interface Props {
  title: string
  times: number[] // seconds since the epoch, one step apart
  lines: Line[]
  limits?: Limit[]
  format: (n: number) => string
  // floor is what the axis reaches at least, so that noise near zero stays flat.
  floor: number
}

const height = 180
const edge = { top: 10, end: 8, bottom: 22 }

// ticksTo are the marks of an axis from 0 to at least high: three to six, at round numbers.
export function ticksTo(high: number): number[] {
  const raw = high / 4
  const power = 10 ** Math.floor(Math.log10(raw))
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw)!
  return Array.from({ length: Math.ceil(high / step - 1e-9) + 1 }, (_, i) => i * step)
}

// pathOf joins values to lines, with a gap where there is none.
export function pathOf(values: (number | null)[], x: (i: number) => number, y: (v: number) => number): string {
  let out = ''
  let drawing = false
  values.forEach((v, i) => {
    if (v === null) {
      drawing = false
      return
    }
    out += `${drawing ? 'L' : 'M'}${x(i).toFixed(1)} ${y(v).toFixed(1)}`
    // A value alone between gaps is a dot: a line of no length with round ends.
    if (!drawing && values[i + 1] == null) out += 'h0'
    drawing = true
  })
  return out
}

// Chart is lines over time. Its name tells a screen reader the newest values.
export function Chart({ title, times, lines, limits = [], format, floor }: Props) {
  const host = useRef<HTMLDivElement>(null)
  const [width, setWidth] = useState(480)
  const [at, setAt] = useState<number | null>(null)
  useEffect(() => {
    const sizes = new ResizeObserver(([e]) => setWidth(Math.max(160, e!.contentRect.width)))
    sizes.observe(host.current!)
    return () => sizes.disconnect()
  }, [])
  const drawn = useMemo(() => {
    const high = Math.max(floor, ...limits.map((l) => l.value * 1.1), ...lines.flatMap((l) => l.values.map((v) => v ?? 0)))
    const ticks = ticksTo(high)
    const top = ticks.at(-1)!
    // The labels of the axis are as long as the language's units.
    const pen = document.createElement('canvas').getContext('2d')!
    pen.font = `11px ${getComputedStyle(document.documentElement).fontFamily}`
    const start = 16 + Math.max(...ticks.map((v) => pen.measureText(format(v)).width))
    const n = Math.max(2, times.length)
    const x = (i: number) => start + (i / (n - 1)) * (width - start - edge.end)
    const y = (v: number) => edge.top + (1 - v / top) * (height - edge.top - edge.bottom)
    return { ticks, start, x, y, paths: lines.map((l) => pathOf(l.values, x, y)) }
  }, [times, lines, limits, width, floor])
  const { start, x, y } = drawn
  const look = (e: PointerEvent) => {
    const inner = e.clientX - host.current!.getBoundingClientRect().left - start
    const i = Math.round((inner / (width - start - edge.end)) * (times.length - 1))
    setAt(i >= 0 && i < times.length ? i : null)
  }
  const shown = lines.map((l) => {
    const v = at === null ? l.values.findLast((n) => n !== null) : l.values[at]
    return { ...l, text: v == null ? '–' : format(v) }
  })
  const marks = width > 420 ? [0, 1 / 3, 2 / 3, 1] : [0, 1]
  return (
    <figure class="chart">
      <figcaption class="bar">
        <h3 class="grow">{title}</h3>
        {at !== null && <span class="muted num">{clock(new Date(times[at]! * 1000))}</span>}
        {shown.map((l) => (
          <span key={l.label} class="key">
            <svg viewBox="0 0 16 4" aria-hidden="true">
              <path d="M0 2h16" class={`line-${l.color}`} />
            </svg>
            <bdi>{l.label}</bdi> <span class="num">{l.text}</span>
          </span>
        ))}
      </figcaption>
      <div ref={host} class="plot" dir="ltr" onPointerMove={look} onPointerLeave={() => setAt(null)}>
        <svg width={width} height={height} role="img" aria-label={`${title}: ${shown.map((l) => `${l.label} ${l.text}`).join(', ')}${limits.map((l) => `, ${l.label} ${format(l.value)}`).join('')}`}>
          {drawn.ticks.map((v) => (
            <g key={v}>
              <path class="grid" d={`M${start} ${y(v)}H${width - edge.end}`} />
              <text x={start - 8} y={y(v) + 4} text-anchor="end">
                {format(v)}
              </text>
            </g>
          ))}
          {times.length > 1 &&
            marks.map((m) => {
              const i = Math.round(m * (times.length - 1))
              return (
                <text key={m} x={x(i)} y={height - 6} text-anchor={m === 0 ? 'start' : m === 1 ? 'end' : 'middle'}>
                  {clock(new Date(times[i]! * 1000))}
                </text>
              )
            })}
          {limits.map((l) => {
            // The better one stands below its line, or at the other end where there is no room.
            const below = l.tone === 'warn'
            const room = y(l.value) + 14 < height - edge.bottom
            return (
              <g key={l.label} class={`limit ${l.tone}`}>
                <path d={`M${start} ${y(l.value)}H${width - edge.end}`} />
                <text x={below && !room ? width - edge.end : start + 4} y={y(l.value) + (below && room ? 12 : -4)} text-anchor={below && !room ? 'end' : undefined}>
                  {l.label}
                </text>
              </g>
            )
          })}
          {lines.map((l, i) => (
            <path key={l.label} class={`line-${l.color}`} d={drawn.paths[i]} />
          ))}
          {at !== null && <path class="cursor" d={`M${x(at)} ${edge.top}V${height - edge.bottom}`} />}
        </svg>
      </div>
    </figure>
  )
}
