// What can be measured of how a page looks: that nothing is cut, sticks out or lies
// over something else, and that every text is in the language chosen.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

export const catalogues = Object.fromEntries(
  ['en', 'id', 'zh-CN', 'fa', 'ru'].map((l) => [l, JSON.parse(readFileSync(join(import.meta.dirname, `../src/i18n/${l}.json`), 'utf8'))]),
)

// layoutFindings are what is wrong with how the page stands, as lines. What scrolls may
// be longer than its place; what ends in an ellipsis has to say all of it in a title.
export async function layoutFindings(page) {
  const language = await page.evaluate(() => document.documentElement.lang)
  return page.evaluate(measure, { en: catalogues.en, own: catalogues[language] ?? {} })
}

// measure runs in the page.
function measure({ en, own }) {
  const out = new Set()
  const name = (e) => `<${e.tagName.toLowerCase()}${e.id && `#${e.id}`}${typeof e.className === 'string' && e.className && `.${e.className.trim().replaceAll(/\s+/g, '.')}`}> ${JSON.stringify((e.textContent || e.ariaLabel || '').trim().slice(0, 60))}`
  const styles = new Map()
  const style = (e) => styles.get(e) ?? (styles.set(e, getComputedStyle(e)), styles.get(e))
  const seen = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.closest('.sr, noscript, option, title, script')
  const above = (e) => {
    const list = []
    for (let a = e; a && a !== document.documentElement; a = a.parentElement) list.push(a)
    return list
  }
  // What is fixed, sticks or is a dialog lies over the rest on purpose: only what is in
  // the same layer may not meet.
  const layer = (e) => above(e).find((a) => /fixed|sticky/.test(style(a).position) || a.tagName === 'DIALOG') ?? document.body
  const cross = (a, b) => ({ left: Math.max(a.left, b.left), right: Math.min(a.right, b.right), top: Math.max(a.top, b.top), bottom: Math.min(a.bottom, b.bottom) })
  const width = (r) => r.right - r.left
  const height = (r) => r.bottom - r.top
  // shown is what of a rectangle its ancestors let through; cut names what takes a part of it
  // away that nothing brings back.
  const shown = (e, rect, self) => {
    let r = rect
    let cut = ''
    for (const a of above(self ? e : e.parentElement)) {
      const s = style(a)
      if (s.display === 'inline' || s.display === 'contents') continue
      const box = a.getBoundingClientRect()
      const scrolls = { x: /auto|scroll/.test(s.overflowX), y: /auto|scroll/.test(s.overflowY) }
      const clips = { x: s.overflowX !== 'visible', y: s.overflowY !== 'visible' }
      if (clips.x && !scrolls.x && (r.right > box.right + 1 || r.left < box.left - 1)) {
        const said = a.closest('[title]') ?? a.querySelector('[title]')
        if (s.textOverflow !== 'ellipsis') cut ||= `cut: ${name(e)} in ${name(a)}`
        else if (!said) cut ||= `cut without a title: ${name(e)}`
      }
      if (clips.y && !scrolls.y && (r.bottom > box.bottom + 4 || r.top < box.top - 4)) cut ||= `cut in height: ${name(e)} in ${name(a)}`
      if (clips.x) r = cross(r, { ...r, left: box.left, right: box.right })
      if (clips.y) r = cross(r, { ...r, top: box.top, bottom: box.bottom })
      if (s.position === 'fixed') break
    }
    return { r, cut }
  }
  const inScroller = (e) => above(e).some((a) => /auto|scroll/.test(style(a).overflowX))

  if (document.documentElement.scrollWidth > innerWidth + 1) out.add(`the page is ${document.documentElement.scrollWidth} px wide in ${innerWidth}`)

  // Texts: where they are, and what they say.
  const englishOnly = new Set(Object.keys(en).filter((k) => own[k] !== undefined && own[k] !== en[k]).map((k) => en[k]))
  for (const [k, v] of Object.entries(en)) if (own[k] === v) englishOnly.delete(v)
  const machine = 'bdi, .mono, code, pre, kbd, [lang=en], [lang] option, [data-test=editor], textarea'
  const says = (text, e, what) => {
    if (text.includes('.') && text in en) out.add(`a bare key: ${what} of ${name(e)}`)
    if (e.closest(machine) && !e.closest('html[lang=en]')) return
    if (document.documentElement.lang !== 'en' && englishOnly.has(text)) out.add(`not translated: ${what} ${JSON.stringify(text)} of ${name(e)}`)
    if (/\{[a-z]+\}/i.test(text) && !e.closest(machine)) out.add(`a place that is not filled: ${what} ${JSON.stringify(text)}`)
  }
  const texts = []
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  const range = document.createRange()
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const text = n.data.trim()
    const e = n.parentElement
    if (!text || !seen(e)) continue
    says(text, e, 'text')
    range.selectNodeContents(n)
    for (const rect of range.getClientRects()) {
      if (rect.width < 1) continue
      const { r, cut } = shown(e, rect, true)
      if (cut) out.add(cut)
      const box = e.closest('button, .button, .tag, td, th, li, dt, dd, label, .note, .card, dialog')
      if (!cut && box && !above(e).some((a) => box.contains(a) && style(a).overflowX !== 'visible') && style(box).display !== 'inline') {
        const b = box.getBoundingClientRect()
        if (rect.right > b.right + 1 || rect.left < b.left - 1) out.add(`sticks out: ${name(e)} of ${name(box)}`)
      }
      if (!inScroller(e) && (r.right > innerWidth + 1 || r.left < -1)) out.add(`outside: ${name(e)}`)
      if (width(r) > 1 && height(r) > 1) texts.push({ n, e, r, layer: layer(e) })
    }
  }
  for (const e of document.querySelectorAll('[aria-label], [title], [placeholder]')) {
    if (!seen(e)) continue
    for (const a of ['aria-label', 'title', 'placeholder']) if (e.hasAttribute(a)) says(e.getAttribute(a), e, a)
  }
  says(document.title.replace(' · netpolicy', ''), document.body, 'title')

  // Two texts, or a text and a control that it is not in, or two controls.
  const meet = (a, b, part) => {
    const c = cross(a, b)
    return width(c) > 2 && height(c) > part * Math.min(height(a), height(b))
  }
  for (let i = 0; i < texts.length; i++)
    for (let j = i + 1; j < texts.length; j++) {
      const [a, b] = [texts[i], texts[j]]
      // The lines of a chart's texts have no room to spare.
      if (a.n !== b.n && a.layer === b.layer && meet(a.r, b.r, a.e.closest('svg') ? 0.2 : 0.4)) out.add(`one over another: ${name(a.e)} and ${name(b.e)}`)
    }
  const controls = [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [role=tab], [tabindex="0"]')].filter(seen).flatMap((e) => {
    const { r, cut } = shown(e, e.getBoundingClientRect(), false)
    if (cut && e.tagName !== 'INPUT') out.add(cut)
    if (!inScroller(e) && width(r) > 1 && (r.right > innerWidth + 1 || r.left < -1)) out.add(`outside: ${name(e)}`)
    return width(r) > 1 && height(r) > 1 ? [{ e, r, layer: layer(e) }] : []
  })
  for (let i = 0; i < controls.length; i++) {
    const a = controls[i]
    for (let j = i + 1; j < controls.length; j++) {
      const b = controls[j]
      if (a.layer === b.layer && !a.e.contains(b.e) && !b.e.contains(a.e)) {
        const c = cross(a.r, b.r)
        if (width(c) > 1 && height(c) > 1) out.add(`one over another: ${name(a.e)} and ${name(b.e)}`)
      }
    }
    for (const b of texts) if (a.layer === b.layer && !a.e.contains(b.e) && !b.e.contains(a.e) && meet(a.r, b.r, 0.4)) out.add(`one over another: ${name(a.e)} and ${name(b.e)}`)
  }

  // What a list shows, and what stands in an empty entry, have no boxes of their own.
  const pen = document.createElement('canvas').getContext('2d')
  for (const e of document.querySelectorAll('select, input[placeholder], textarea[placeholder]')) {
    if (!seen(e) || (e.tagName !== 'SELECT' && e.value)) continue
    const s = style(e)
    pen.font = s.font
    const text = e.tagName === 'SELECT' ? (e.selectedOptions[0]?.textContent ?? '') : e.placeholder
    const room = e.clientWidth - parseFloat(s.paddingLeft) - parseFloat(s.paddingRight) - (e.tagName === 'SELECT' ? 16 : 0)
    if (e.tagName === 'TEXTAREA') continue
    if (pen.measureText(text).width > room + 1 && !(s.textOverflow === 'ellipsis' && e.title)) out.add(`does not fit: ${JSON.stringify(text)} in ${name(e)}`)
  }
  return [...out]
}
