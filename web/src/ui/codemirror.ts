// The editor itself, apart from the page, so that its 100 kB come when it is wanted.
import { autocompletion, type CompletionContext, completionKeymap } from '@codemirror/autocomplete'
import { history, historyKeymap, indentLess, indentMore, moveLineDown, moveLineUp, standardKeymap, toggleComment } from '@codemirror/commands'
import { bracketMatching, HighlightStyle, syntaxHighlighting } from '@codemirror/language'
import { type Diagnostic, lintGutter, lintKeymap, linter, setDiagnostics } from '@codemirror/lint'
import { Compartment, EditorState, StateEffect, StateField } from '@codemirror/state'
import { Decoration, type DecorationSet, drawSelection, EditorView, highlightActiveLine, hoverTooltip, keymap, lineNumbers, WidgetType } from '@codemirror/view'
import { tags } from '@lezer/highlight'
import { post } from '../lib/api'
import { find } from '../lib/find'
import type { Completion, Finding, Syntax } from '../lib/types'
import { languageFor } from './languages'

export interface EditorOptions {
  host: HTMLElement
  text: string
  syntax: Syntax
  label: string
  onChange: (text: string) => void
}

export interface Editor {
  setText: (text: string) => void
  setSyntax: (s: Syntax) => void
  setFindings: (findings: Finding[]) => void
  setCounts: (counts: { line: number; text: string; dead: boolean }[]) => void
  select: (from: number, to: number) => void
  focus: () => void
  // find selects what is found next to the selection, and says which it is of how many.
  find: (text: string, step: number) => [at: number, of: number]
  destroy: () => void
}

const colors = HighlightStyle.define([
  { tag: tags.keyword, color: 'var(--accent)', fontWeight: '600' },
  { tag: tags.operatorKeyword, color: 'var(--accent)' },
  { tag: tags.propertyName, color: 'var(--accent)' },
  { tag: tags.atom, color: 'var(--warn)' },
  { tag: tags.bool, color: 'var(--warn)' },
  { tag: tags.string, color: 'var(--ok)' },
  { tag: tags.number, color: 'var(--info)' },
  { tag: tags.comment, color: 'var(--muted)', fontStyle: 'italic' },
])

const theme = EditorView.theme({
  '&': { color: 'var(--ink)', backgroundColor: 'var(--surface)', fontSize: '13px', blockSize: '100%' },
  '&.cm-focused': { outline: '2px solid var(--accent)', outlineOffset: '-2px' },
  '.cm-scroller': { fontFamily: 'var(--mono)', lineHeight: '1.6' },
  '.cm-gutters': { backgroundColor: 'var(--surface)', color: 'var(--muted)', borderInlineEnd: '1px solid var(--line)' },
  '.cm-cursor': { borderLeftColor: 'var(--ink)' },
  '.cm-activeLine': { backgroundColor: 'color-mix(in srgb, var(--sunken) 60%, transparent)' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground': { backgroundColor: 'color-mix(in srgb, var(--accent) 28%, transparent)' },
  '.cm-tooltip': { backgroundColor: 'var(--raised)', border: '1px solid var(--line-strong)', borderRadius: '6px', maxInlineSize: '34rem' },
  '.cm-tooltip-autocomplete ul li[aria-selected]': { backgroundColor: 'var(--accent)', color: 'var(--on-accent)' },
  '.cm-completionDetail': { color: 'var(--muted)', fontStyle: 'normal' },
  'li[aria-selected] .cm-completionDetail': { color: 'inherit' },
  '.cm-diagnostic': { fontFamily: 'var(--sans)', padding: '6px 10px', whiteSpace: 'pre-wrap' },
  '.cm-diagnostic-error': { borderLeftColor: 'var(--bad)' },
  '.cm-diagnostic-warning': { borderLeftColor: 'var(--warn)' },
  '.cm-diagnostic-info': { borderLeftColor: 'var(--info)' },
  '.cm-diagnosticAction': { backgroundColor: 'var(--accent)', color: 'var(--on-accent)', padding: '2px 8px' },
  '.cm-lintRange-error': { backgroundImage: 'none', textDecoration: 'underline wavy var(--bad)', textDecorationSkipInk: 'none', textUnderlineOffset: '3px' },
  '.cm-lintRange-warning': { backgroundImage: 'none', textDecoration: 'underline wavy var(--warn)', textUnderlineOffset: '3px' },
  '.cm-lintRange-info': { backgroundImage: 'none', textDecoration: 'underline dotted var(--info)', textUnderlineOffset: '3px' },
  '.cm-lint-marker': { content: 'none', inlineSize: '10px', blockSize: '10px', marginBlockStart: '5px' },
  '.cm-lint-marker-error': { backgroundColor: 'var(--bad)', transform: 'rotate(45deg)' },
  '.cm-lint-marker-warning': { backgroundColor: 'var(--warn)', clipPath: 'polygon(50% 0, 100% 100%, 0 100%)' },
  '.cm-lint-marker-info': { backgroundColor: 'var(--info)', borderRadius: '50%' },
  '.np-count': { color: 'var(--muted)', fontFamily: 'var(--sans)', fontSize: '11px', paddingInlineStart: '2em', userSelect: 'none' },
  '.np-count.dead': { color: 'var(--warn)' },
  '.np-hover': { padding: '6px 10px', fontFamily: 'var(--sans)', whiteSpace: 'pre-wrap' },
})

class Count extends WidgetType {
  constructor(
    readonly text: string,
    readonly dead: boolean,
  ) {
    super()
  }
  override eq(other: Count): boolean {
    return other.text === this.text && other.dead === this.dead
  }
  toDOM(): HTMLElement {
    const e = document.createElement('span')
    e.className = this.dead ? 'np-count dead' : 'np-count'
    e.textContent = this.text
    return e
  }
}
const setCounts = StateEffect.define<DecorationSet>()
const counts = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(set, tr) {
    for (const e of tr.effects) if (e.is(setCounts)) return e.value
    return set.map(tr.changes)
  },
  provide: (f) => EditorView.decorations.from(f),
})

// plain is Markdown as text: the daemon's hovers have emphasis, code and tables, no links.
const plain = (markdown: string) => markdown.replace(/```\w*\n?/g, '').replace(/[`*]/g, '')

const within = (n: number, length: number) => Math.max(0, Math.min(n, length))

export function diagnostics(findings: Finding[], length: number): Diagnostic[] {
  return findings.map((f) => ({
    from: within(f.from, length),
    to: within(Math.max(f.to, f.from), length),
    severity: f.severity === 'hint' ? 'info' : f.severity,
    source: f.code,
    message: f.help ? `${f.message}\n${f.help}` : f.message,
    actions: f.fixes?.map((x) => ({
      name: x.title,
      apply: (view: EditorView) => view.dispatch({ changes: { from: within(x.from, view.state.doc.length), to: within(x.to, view.state.doc.length), insert: x.insert } }),
    })),
  }))
}

// lines are the keys for whole lines, out of many that CodeMirror has.
const lines = [
  { key: 'Mod-/', run: toggleComment },
  { key: 'Mod-[', run: indentLess },
  { key: 'Mod-]', run: indentMore },
  { key: 'Alt-ArrowUp', run: moveLineUp },
  { key: 'Alt-ArrowDown', run: moveLineDown },
]

// create mounts an editor in a shadow root: there CodeMirror puts its styles into
// constructed style sheets, which a content security policy without
// 'unsafe-inline' allows, and needs no nonce.
export function create(o: EditorOptions): Editor {
  const root = o.host.shadowRoot ?? o.host.attachShadow({ mode: 'open' })
  const language = new Compartment()
  let syntax = o.syntax
  const complete = async (c: CompletionContext) => {
    if (!c.explicit && !c.matchBefore(/[\w.$-]+$/)) return null
    const got = await post<Completion>('complete', { text: c.state.doc.toString(), syntax, at: c.pos })
    if (got.items.length === 0) return null
    return {
      from: got.from,
      to: got.to,
      validFor: got.incomplete ? undefined : /^[\w.$-]*$/,
      options: got.items.map((i) => ({ label: i.label, type: i.kind, detail: i.detail, info: i.doc ? () => note(i.doc!) : undefined })),
    }
  }
  const hover = hoverTooltip(async (view, pos) => {
    const got = await post<{ text: string; from: number; to: number }>('hover', { text: view.state.doc.toString(), syntax, at: pos })
    if (!got.text) return null
    return { pos: got.from, end: got.to, create: () => ({ dom: note(got.text) }) }
  })
  const view = new EditorView({
    parent: root,
    root,
    state: EditorState.create({
      doc: o.text,
      extensions: [
        lineNumbers(),
        history(),
        drawSelection(),
        highlightActiveLine(),
        bracketMatching(),
        language.of(languageFor(syntax)),
        syntaxHighlighting(colors),
        linter(null),
        lintGutter(),
        counts,
        autocompletion({ override: [complete], icons: false }),
        hover,
        keymap.of([...completionKeymap, ...historyKeymap, ...lintKeymap, ...lines, ...standardKeymap]),
        EditorView.contentAttributes.of({ 'aria-label': o.label, spellcheck: 'false', tabindex: '0' }),
        EditorView.updateListener.of((u) => u.docChanged && o.onChange(u.state.doc.toString())),
        theme,
      ],
    }),
  })
  const select = (from: number, to: number) => {
    const [a, b] = [within(from, view.state.doc.length), within(to, view.state.doc.length)]
    view.dispatch({ selection: { anchor: a, head: b }, effects: EditorView.scrollIntoView(a, { y: 'center' }) })
  }
  return {
    setText: (text) => text !== view.state.doc.toString() && view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } }),
    setSyntax: (s) => {
      if (s === syntax) return
      syntax = s
      view.dispatch({ effects: language.reconfigure(languageFor(s)) })
    },
    setFindings: (f) => view.dispatch(setDiagnostics(view.state, diagnostics(f, view.state.doc.length))),
    setCounts: (list) => {
      const at = list
        .filter((c) => c.line >= 1 && c.line <= view.state.doc.lines)
        .sort((a, b) => a.line - b.line)
        .map((c) => Decoration.widget({ widget: new Count(c.text, c.dead), side: 1 }).range(view.state.doc.line(c.line).to))
      view.dispatch({ effects: setCounts.of(Decoration.set(at)) })
    },
    select: (from, to) => {
      select(from, to)
      view.focus()
    },
    focus: () => view.focus(),
    find: (text, step) => {
      const { all, at } = find(view.state.doc.toString(), text, view.state.selection.main.from, step)
      if (all.length === 0) return [0, 0]
      select(all[at]!, all[at]! + text.length)
      return [at + 1, all.length]
    },
    destroy: () => view.destroy(),
  }
}

function note(markdown: string): HTMLElement {
  const e = document.createElement('div')
  e.className = 'np-hover'
  e.textContent = plain(markdown)
  return e
}
