import { useEffect, useRef, useState } from 'preact/hooks'

// windowOf is which of count rows are to be drawn: those in view, and a few on
// either side, so that scrolling does not show a gap before the next drawing.
export function windowOf(top: number, height: number, row: number, count: number, spare = 8): { first: number; end: number } {
  const first = Math.max(0, Math.min(Math.floor(top / row) - spare, count))
  const end = Math.min(count, Math.ceil((top + height) / row) + spare)
  return { first, end: Math.max(first, end) }
}

// shift is by how many rows those in view have moved from one list to the next: what most
// of them did, since in some orders each goes its own way. Rows that are gone don't count.
export function shift(before: unknown[], now: unknown[], first: number, end: number): number {
  const moves = before
    .slice(first, end)
    .flatMap((row, i) => {
      const at = now.indexOf(row)
      return at < 0 ? [] : [at - first - i]
    })
    .sort((a, b) => a - b)
  return moves[moves.length >> 1] ?? 0
}

// useWindow follows how far an element is scrolled and how much of it is in view.
export function useWindow<E extends HTMLElement>(): { ref: { current: E | null }; top: number; height: number } {
  const ref = useRef<E>(null)
  const [view, setView] = useState({ top: 0, height: 600 })
  useEffect(() => {
    const e = ref.current
    if (!e) return
    const look = () => setView((v) => (v.top === e.scrollTop && v.height === e.clientHeight ? v : { top: e.scrollTop, height: e.clientHeight }))
    look()
    e.addEventListener('scroll', look, { passive: true })
    const sizes = new ResizeObserver(look)
    sizes.observe(e)
    return () => {
      e.removeEventListener('scroll', look)
      sizes.disconnect()
    }
  }, [])
  return { ref, ...view }
}
