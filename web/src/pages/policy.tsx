import './policy.css'
import { useEffect, useRef, useState } from 'preact/hooks'
import { announce, failed } from '../lib/announce'
import { ApiError, get, mayChange, post } from '../lib/api'
import * as draft from '../lib/draft'
import { edited, isDirty, open } from '../lib/draft'
import { on } from '../lib/events'
import { number } from '../lib/format'
import { language, t, tn } from '../lib/i18n'
import { go } from '../lib/router'
import { placeOf, worst } from '../lib/text'
import type { Diagnostic, Finding, Lint, Rule, Rules, Syntax, TestResult, Version } from '../lib/types'
import type { Editor } from '../ui/codemirror'
import { VersionDiff } from '../ui/diff'
import { Icon } from '../ui/icon'
import { Mono, Note, SeverityMark, Tabs, Title, useAsk, useEvery } from '../ui/parts'

const debounce = 200
type Side = 'problems' | 'rules' | 'tests'

export default function PolicyPage() {
  const now = edited.value
  const dirty = isDirty(now)
  const [error, setError] = useState('')
  // What the daemon said last, and of which text.
  const [lint, setLint] = useState<(Lint & { of: string }) | null>(null)
  const [tests, setTests] = useState<TestResult | null>(null)
  const [side, setSide] = useState<Side>('problems')
  const [busy, setBusy] = useState(false)
  const rules = useAsk(() => get<Rules>('rules'), [])
  useEvery(rules.again, 5000)
  const host = useRef<HTMLDivElement>(null)
  const editor = useRef<Editor | null>(null)
  const want = useRef<HTMLInputElement>(null)
  const [ready, setReady] = useState(false)

  useEffect(() => {
    // A text that nobody has touched follows the policy in force, another is compared with it.
    open().catch((err) => setError(err instanceof Error ? err.message : String(err)))
    const again = () => void open().catch(failed)
    return on('changes', again, again)
  }, [])
  useEffect(() => {
    // The browser's own search does not see the lines that are out of view.
    const press = (e: KeyboardEvent) => {
      if (e.code !== 'KeyF' || !(e.ctrlKey || e.metaKey) || document.querySelector('dialog[open]')) return
      e.preventDefault()
      want.current?.select()
    }
    addEventListener('keydown', press)
    return () => removeEventListener('keydown', press)
  }, [])
  useEffect(() => {
    if (!now || !host.current || editor.current) return
    let gone = false
    void import('../ui/codemirror').then((m) => {
      if (gone || !host.current || !edited.value) return
      editor.current = m.create({
        host: host.current,
        text: edited.value.select?.before ?? edited.value.text,
        syntax: edited.value.syntax,
        label: t('policy.editor'),
        onChange: (text) => edited.value && text !== edited.value.text && (edited.value = { ...edited.value, text, select: undefined }),
      })
      setReady(true)
    }, failed)
    return () => {
      gone = true
    }
  }, [now === null])
  useEffect(
    () => () => {
      editor.current?.destroy()
      editor.current = null
    },
    [],
  )
  // The text as it is now, not as it was drawn: keys may have come since, and what
  // the editor itself has told is no news to it.
  useEffect(() => {
    const is = edited.value
    if (!ready || !is) return
    editor.current?.setSyntax(is.syntax)
    editor.current?.setText(is.text)
    if (is.select) {
      editor.current?.select(is.select.from, is.select.to)
      edited.value = { ...is, select: undefined }
    }
  }, [now, ready])
  // The daemon reads the text shortly after the last key; an answer to an older text is dropped.
  useEffect(() => {
    if (!now || !ready) return
    let gone = false
    const timer = setTimeout(() => {
      post<Lint>('lint', { text: now.text, syntax: now.syntax }).then((l) => {
        if (gone) return
        setLint({ ...l, of: now.text })
        editor.current?.setFindings(l.findings)
        const errors = l.findings.filter((f) => f.severity === 'error').length
        if (dirty) announce(errors > 0 ? tn('policy.errors', errors) : t('policy.fine'))
      }, (err) => {
        if (!gone) setLint(null)
        failed(err)
      })
    }, debounce)
    return () => {
      gone = true
      clearTimeout(timer)
    }
  }, [now?.text, now?.syntax, ready])
  const here = (r: Rule) => r.file === rules.value?.policy.file
  useEffect(() => {
    const list = dirty ? [] : (rules.value?.rules ?? [])
    editor.current?.setCounts(list.filter(here).map((r) => ({ line: r.line, dead: !!r.dead, text: r.dead ? t('rules.dead') : tn('decisions', r.decisions) })))
  }, [rules.value, dirty, ready, language.value])

  const work = async (what: () => Promise<void>) => {
    setBusy(true)
    try {
      await what()
    } catch (err) {
      if (err instanceof ApiError && err.findings.length > 0) setSide('problems')
      failed(err)
    }
    setBusy(false)
  }
  const rewrite = (to?: Syntax) => work(() => draft.rewrite(to))
  const test = () => work(async () => {
    setTests(await post<TestResult>('test', { text: now!.text, syntax: now!.syntax }))
    setSide('tests')
  })
  const stage = () => work(async () => {
    const got = await draft.stage()
    if (got?.ok) go('change')
    else if (got) setSide('problems')
  })
  // meanwhile is the policy that came into force meanwhile, to be shown.
  const [meanwhile, setMeanwhile] = useState<Version | null>(null)
  const [found, setFound] = useState<[at: number, of: number] | null>(null)
  const search = (step: number) => {
    const { value } = want.current!
    setFound(value && editor.current ? editor.current.find(value, step) : null)
  }
  const toRule = (r: Rule) => {
    const place = placeOf(now!.text, r.name, r.line)
    if (place) editor.current?.select(place.from, place.to)
  }
  const jump = (f: Finding) => editor.current?.select(f.from, f.to)
  const other: Syntax = now?.syntax === 'yaml' ? 'npl' : 'yaml'
  const count = (n: number) => (n > 0 ? ` (${number(n)})` : '')
  return (
    <>
      <Title page="nav.policy">
        <Mono>{now?.name}</Mono>
        {dirty && <span class="tag warn">{t('policy.changed')}</span>}
      </Title>
      {error && <Note kind="error">{error}</Note>}
      {dirty && now.over && (
        <Note kind="warning">
          <div class="bar">
            <span class="grow">{t('change.rebased')}</span>
            {now.n > 0 && (
              <button type="button" onClick={() => void get<Version>(`config/versions/${now.n}?diff=1`).then(setMeanwhile, failed)}>
                {t('history.show')}
              </button>
            )}
          </div>
        </Note>
      )}
      {meanwhile && <VersionDiff version={meanwhile} onClose={() => setMeanwhile(null)} />}
      <div class="bar">
        <button type="button" disabled={!now || busy} onClick={() => void rewrite()}>
          {t('policy.format')}
        </button>
        <button type="button" disabled={!now || busy} onClick={() => void rewrite(other)}>
          {t('policy.convert', { syntax: other.toUpperCase() })}
        </button>
        <button type="button" disabled={!now || busy} onClick={() => void test()}>
          {t('policy.test')}
        </button>
        <input
          ref={want}
          type="search"
          data-filter
          aria-label={t('find')}
          placeholder={t('find')}
          onInput={() => search(0)}
          onKeyDown={(e) => (e.key === 'Enter' ? search(e.shiftKey ? -1 : 1) : e.key === 'Escape' && editor.current?.focus())}
        />
        {found && (
          <>
            <button type="button" class="icon" aria-label={`${t('find')} ↑`} onClick={() => search(-1)}>
              ↑
            </button>
            <button type="button" class="icon" aria-label={`${t('find')} ↓`} onClick={() => search(1)}>
              ↓
            </button>
            <span class="num muted" role="status">
              {t('connections.of', { matched: number(found[0]), total: number(found[1]) })}
            </span>
          </>
        )}
        <span class="grow" />
        <button type="button" disabled={!dirty} onClick={() => void work(draft.discard)}>
          <Icon name="undo" />
          {t('policy.discard')}
        </button>
        <button type="button" class="primary" disabled={!dirty || busy || !mayChange()} onClick={() => void stage()}>
          <Icon name="change" />
          {t('policy.stage')}
        </button>
      </div>
      <div class="editing">
        <div class="card editor" ref={host} dir="ltr" data-test="editor">
          <p class="empty" dir="auto">
            {t('policy.editor')}…
          </p>
        </div>
        <div class="card side-panel">
          <Tabs<Side>
            label={t('nav.policy')}
            value={side}
            onChange={setSide}
            tabs={[
              { id: 'problems', text: t('policy.problems') + count(lint?.findings.length ?? 0) },
              { id: 'rules', text: t('policy.rules') + count(rules.value?.rules.length ?? 0) },
              { id: 'tests', text: t('policy.tests') + count(tests?.failed ?? 0) },
            ]}
          />
          {side === 'problems' && (
            <>
              <NotLookedAt above={lint?.dead_up_to} />
              <Findings findings={lint?.findings ?? []} empty={t(lint && lint.of === now?.text ? 'policy.fine' : 'policy.unchecked')} onJump={jump} />
            </>
          )}
          {side === 'rules' && (
            <>
              <NotLookedAt above={rules.value?.dead_up_to} />
              <RuleList rules={rules.value} here={here} onJump={toRule} />
            </>
          )}
          {side === 'tests' &&
            (tests === null ? (
              <p class="empty">{t('tests.not')}</p>
            ) : (
              <>
                <p class="summary">
                  <span class={`state ${tests.ok ? 'ok' : 'bad'}`}>
                    <Icon name={tests.ok ? 'check' : 'alert'} />
                    {t('tests.sum', { tried: number(tests.tried), failed: number(tests.failed) })}
                  </span>
                  {tests.unproven > 0 && <span class="muted"> {tn('tests.unproven', tests.unproven)}</span>}
                </p>
                <Findings findings={tests.findings} empty="" onJump={jump} />
              </>
            ))}
        </div>
      </div>
    </>
  )
}

// NotLookedAt says that dead rules are not looked for, as there are more rules than that.
function NotLookedAt({ above }: { above?: number }) {
  return above ? <p class="summary muted" data-test="not-looked-at">{t('rules.deadUpTo', { most: number(above) })}</p> : null
}

export function Findings<F extends Finding | Diagnostic>({ findings, empty, onJump }: { findings: F[]; empty: string; onJump?: (f: F) => void }) {
  if (findings.length === 0) return empty ? <p class="empty">{empty}</p> : null
  return (
    <ul class="findings" data-test="findings">
      {[...findings].sort(worst).map((f) => (
        <li key={`${f.code} ${f.line} ${f.column} ${f.message}`}>
          <div class="bar">
            <SeverityMark severity={f.severity} />
            <Mono>{f.code}</Mono>
            {!!f.line &&
              (onJump ? (
                <button type="button" class="plain" onClick={() => onJump(f)}>
                  {t('place', { line: number(f.line), column: number(f.column ?? 1) })}
                </button>
              ) : (
                <span class="muted">{t('place', { line: number(f.line), column: number(f.column ?? 1) })}</span>
              ))}
          </div>
          <p lang="en" dir="ltr">
            {f.message}
          </p>
          {f.help && (
            <p lang="en" dir="ltr" class="muted">
              {f.help}
            </p>
          )}
        </li>
      ))}
    </ul>
  )
}

function RuleList({ rules, here, onJump }: { rules: Rules | null; here: (r: Rule) => boolean; onJump: (r: Rule) => void }) {
  if (!rules) return null
  const most = Math.max(1, rules.default.decisions, ...rules.rules.map((r) => r.decisions))
  return (
    <ol class="rules" data-test="rules">
      {rules.rules.map((r) => (
        <li key={r.name}>
          <div class="bar">
            {here(r) ? (
              <button type="button" class="plain" onClick={() => onJump(r)}>
                <Mono>{r.name}</Mono>
              </button>
            ) : (
              <Mono>{r.name}</Mono>
            )}
            {r.disabled && <span class="tag">{t('rules.disabled')}</span>}
            {r.dead && <span class="tag warn">{t('rules.dead')}</span>}
            <span class="grow" />
            <span class="num muted">{tn('decisions', r.decisions)}</span>
          </div>
          <meter min={0} max={most} value={r.decisions} aria-label={t('rules.hits')} />
          <p class="muted">
            <Mono>
              {r.priority} {r.specificity} · {r.action}
            </Mono>
          </p>
          {r.findings?.map((f) => (
            <p key={f.code + f.message} lang="en" dir="ltr" class={f.severity === 'error' ? 'bad' : 'warn'}>
              {f.message}
            </p>
          ))}
        </li>
      ))}
      <li>
        <div class="bar">
          <span>{t('default')}</span>
          <span class="grow" />
          <span class="num muted">{tn('decisions', rules.default.decisions)}</span>
        </div>
        <meter min={0} max={most} value={rules.default.decisions} aria-label={t('rules.hits')} />
        <p class="muted">
          <Mono>{rules.default.action || '–'}</Mono>
        </p>
      </li>
    </ol>
  )
}
