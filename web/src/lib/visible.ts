import { type ComponentChildren, Fragment, options } from 'preact'

// hidden are characters that are not seen and change what is: controls, direction,
// joiners, fillers, halves of pairs. What texts need stays: lines and tabs, joiners
// between letters that are not ASCII (Persian, emoji), and the mark before a sign or a
// digit that numbers of Persian have.
const hidden = /(?![\n\t]|(?<=[^\0-\x7f])[\u200c\u200d](?=[^\0-\x7f])|\u200e[-+\u2212%\u066a\d\u06f0-\u06f9])[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029\u115f\u1160\u3164\uffa0]/u
const all = new RegExp(hidden, 'gu')

// visible writes hidden characters out, as ⟨U+202E⟩.
export const visible = (text: string): string => (hidden.test(text) ? text.replace(all, (c) => `⟨U+${c.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}⟩`) : text)

function shown(c: ComponentChildren): ComponentChildren {
  if (typeof c === 'string') return visible(c)
  return Array.isArray(c) ? c.map(shown) : c
}

// showHidden makes all texts that are drawn from now on visible: names of programs,
// remarks of links and lines of the log are whatever somebody far away likes.
export function showHidden(): void {
  const before = options.vnode
  options.vnode = (v) => {
    const props = v.props as Record<string, ComponentChildren>
    if (typeof v.type === 'string' || v.type === Fragment) {
      for (const key of ['children', 'title', 'aria-label']) if (props[key] !== undefined) props[key] = shown(props[key])
    }
    before?.(v)
  }
}
