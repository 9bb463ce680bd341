import './diff.css'
import type { ComponentChildren } from 'preact'
import { number } from '../lib/format'
import { t } from '../lib/i18n'
import type { Version } from '../lib/types'
import { Dialog } from './parts'

export interface DiffLine { kind: 'add' | 'remove' | 'hunk' | 'same'; text: string }

// parseDiff reads a unified difference, or any text whose lines begin with + and -.
export function parseDiff(text: string): DiffLine[] {
  return text
    .replace(/\n$/, '')
    .split('\n')
    .filter((l) => !/^(---|\+\+\+) /.test(l) && !l.startsWith('diff '))
    .map((l) => ({ kind: l.startsWith('+') ? 'add' : l.startsWith('-') ? 'remove' : l.startsWith('@@') ? 'hunk' : 'same', text: l }))
}

// Diff shows what was added and removed by its sign, its colour, and to a screen reader by a word.
export function Diff({ text, label }: { text: string; label: string }) {
  return (
    <div class="diff scroll" role="group" aria-label={label} tabIndex={0} dir="ltr" lang="en">
      {parseDiff(text).map((l, i) => (
        <div key={i} class={l.kind}>
          {l.kind === 'add' && <span class="sr">{t('diff.added')}</span>}
          {l.kind === 'remove' && <span class="sr">{t('diff.removed')}</span>}
          {l.text || ' '}
        </div>
      ))}
    </div>
  )
}

// VersionDiff shows what a policy of the history changed.
export function VersionDiff({ version: v, onClose, children }: { version: Version; onClose: () => void; children?: ComponentChildren }) {
  return (
    <Dialog title={t('history.one', { n: number(v.n) })} onClose={onClose}>
      {v.diff ? <Diff text={v.diff} label={t('change.text')} /> : <p class="empty">{t('change.same')}</p>}
      {children}
    </Dialog>
  )
}
