import './change.css'
import { useEffect, useState } from 'preact/hooks'
import { failed, toast } from '../lib/announce'
import { get, mayChange, post, request } from '../lib/api'
import * as draft from '../lib/draft'
import { edited, isDirty } from '../lib/draft'
import { on, status } from '../lib/events'
import { dateTime, number } from '../lib/format'
import { type Key, t, tn } from '../lib/i18n'
import { go, link } from '../lib/router'
import type { ChangeResult, Replay, Stage, Version } from '../lib/types'
import { Diff, VersionDiff } from '../ui/diff'
import { Icon } from '../ui/icon'
import { Mono, Note, Tabs, Title, useAsk } from '../ui/parts'
import { Findings } from './policy'

export default function ChangePage() {
  const staged = useAsk(draft.staged, [])
  const versions = useAsk(() => get<Version[]>('config/versions'), [])
  const again = () => {
    staged.again()
    versions.again()
  }
  useEffect(() => on('changes', again, again), [])
  const [result, setResult] = useState<ChangeResult | null>(null)
  const settled = (r: ChangeResult) => {
    setResult(r)
    again()
  }
  const now = edited.value
  const dirty = isDirty(now) && now.text !== staged.value?.text
  return (
    <>
      <Title page="nav.change" />
      {staged.error && <Note kind="error">{staged.error}</Note>}
      {dirty && <NotStaged onStaged={staged.again} />}
      {result && (result.result !== 'pending' || result.n === status.value?.confirm?.n) && <Outcome result={result} />}
      {staged.value ? (
        <Staged key={`${staged.value.etag} ${staged.value.base}`} stage={staged.value} onSettled={settled} onGone={staged.again} />
      ) : (
        !dirty && (
          <div class="card empty">
            <p>{t('change.nothing')}</p>
            <p>
              <a href={link('policy')}>{t('change.edit')}</a>
            </p>
          </div>
        )
      )}
      <History versions={versions.value ?? []} onSettled={settled} />
    </>
  )
}

function NotStaged({ onStaged }: { onStaged: () => void }) {
  const stage = () => draft.stage().then(onStaged, failed)
  return (
    <Note kind="warning">
      <div class="bar">
        <span class="grow">{t('change.unstaged')}</span>
        <a class="button" href={link('policy')}>
          {t('nav.policy')}
        </a>
        <button type="button" class="primary" disabled={!mayChange()} onClick={() => void stage()}>
          {t('policy.stage')}
        </button>
      </div>
    </Note>
  )
}

function Outcome({ result: r }: { result: ChangeResult }) {
  const bad = r.result === 'rejected' || r.result === 'reverted'
  return (
    <Note kind={bad ? 'error' : 'ok'}>
      <strong>{t(`result.${r.result}`)}</strong> {r.error && <span>{r.error}</span>}
      {r.warnings?.map((w) => (
        <p key={w} lang="en" dir="ltr">
          {w}
        </p>
      ))}
      {r.probes?.map((p) => (
        <p key={p} class="mono" lang="en" dir="ltr">
          {p}
        </p>
      ))}
    </Note>
  )
}

function By({ who, time }: { who: string; time: string }) {
  return (
    <span class="muted">
      <time dateTime={time}>{dateTime(new Date(time))}</time> · <bdi>{who}</bdi>
    </span>
  )
}

type View = 'text' | 'kernel' | 'replay'
const confirms = ['30s', '90s', '5m', '15m', 'probe', ''] as const

function Staged({ stage, onSettled, onGone }: { stage: Stage; onSettled: (r: ChangeResult) => void; onGone: () => void }) {
  const [view, setView] = useState<View>('text')
  const [confirm, setConfirm] = useState<string>('90s')
  const [busy, setBusy] = useState(false)
  const replay = useAsk(() => (view === 'replay' ? post<Replay>('replay', { text: stage.text }) : Promise.resolve(null)), [view])
  // What fails may have become of another stage than the one that is shown.
  const gone = (err: unknown) => {
    failed(err)
    onGone()
  }
  const drop = () => request('DELETE', 'config/stage', undefined, { 'If-Match': stage.etag! }).then(onGone, gone)
  const again = () =>
    post<Stage>('config/stage', { text: stage.text }).then((got) => {
      if (!got.ok) toast('error', got.error ?? t('policy.rejected'))
      onGone()
    }, failed)
  const commit = async () => {
    setBusy(true)
    try {
      const r = await post<ChangeResult>(`config/commit${confirm && `?confirm=${confirm}`}`, {}, { 'If-Match': stage.etag! })
      onSettled(r)
      if (r.result !== 'rejected' && r.result !== 'reverted') await draft.committed(stage, r.result === 'pending' ? r.n : undefined)
    } catch (err) {
      gone(err)
    }
    setBusy(false)
  }
  const waits = !!status.value?.confirm
  return (
    <section class="card" aria-label={t('change.staged')} data-test="staged">
      <header>
        <h2 class="grow">{t('change.staged')}</h2>
        {stage.rules !== undefined && <span class="tag">{tn('rules', stage.rules)}</span>}
        <span class="tag ok">+{number(stage.added ?? 0)}</span>
        <span class="tag bad">−{number(stage.removed ?? 0)}</span>
        {stage.tried !== undefined && stage.tried > 0 && <span class="tag ok">{tn('assertions', stage.tried)}</span>}
        <By who={stage.who!} time={stage.time!} />
      </header>
      {stage.base_gone && (
        <div class="body">
          <Note kind="warning">
            <div class="bar">
              <span class="grow">{t('change.gone')}</span>
              <button type="button" disabled={!mayChange()} onClick={() => void again()}>
                {t('policy.stage')}
              </button>
            </div>
          </Note>
        </div>
      )}
      <Tabs<View>
        label={t('change.staged')}
        value={view}
        onChange={setView}
        tabs={[
          { id: 'text', text: t('change.text') },
          { id: 'kernel', text: t('change.kernel') },
          { id: 'replay', text: t('change.replay') },
        ]}
      />
      {view === 'text' && (stage.diff ? <Diff text={stage.diff} label={t('change.text')} /> : <p class="empty">{t('change.same')}</p>)}
      {view === 'kernel' && (stage.plan ? <Diff text={stage.plan} label={t('change.kernel')} /> : <p class="empty">{t('change.same')}</p>)}
      {view === 'replay' && <ReplayView replay={replay.value} error={replay.error} />}
      {stage.diagnostics.length > 0 && <Findings findings={stage.diagnostics} empty="" />}
      <footer class="bar commit">
        <label class="check">
          <span class="muted">{t('change.confirm')}</span>
          <select value={confirm} onChange={(e) => setConfirm(e.currentTarget.value)}>
            {confirms.map((c) => (
              <option key={c} value={c}>
                {c === '' ? t('change.confirm.none') : c === 'probe' ? t('change.confirm.probe') : t('change.confirm.within', { time: c })}
              </option>
            ))}
          </select>
        </label>
        <span class="grow" />
        <button type="button" disabled={!mayChange() || busy} onClick={() => void drop()}>
          {t('change.unstage')}
        </button>
        <button type="button" class="primary" disabled={!mayChange() || busy || waits || stage.base_gone} onClick={() => void commit()}>
          <Icon name="check" />
          {t('change.commit')}
        </button>
      </footer>
    </section>
  )
}

function ReplayView({ replay, error }: { replay: Replay | null; error: string }) {
  if (error) return <Note kind="error">{error}</Note>
  if (!replay) return <p class="empty">…</p>
  return (
    <div class="body stack" data-test="replay">
      <p>
        <strong>{tn('replay.sum', replay.flows, { changed: number(replay.changed) })}</strong>
      </p>
      {replay.changes.length > 0 && (
        <div class="scroll" role="group" aria-label={t('change.replay')} tabIndex={0}>
          <table>
            <thead>
              <tr>
                <th scope="col">{t('col.name')}</th>
                <th scope="col">{t('replay.was')}</th>
                <th scope="col">{t('replay.is')}</th>
              </tr>
            </thead>
            <tbody>
              {replay.changes.map((c) => (
                <tr key={c.id}>
                  <td>
                    <Mono>{c.name || String(c.flow.dst)}</Mono>
                  </td>
                  <td>
                    <Mono>{c.was}</Mono>
                  </td>
                  <td>
                    <Mono>{c.is}</Mono>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </div>
  )
}

const outcomes: Record<string, string> = { pending: 'warn', confirmed: 'ok', reverted: 'bad', damaged: 'bad' }

function History({ versions, onSettled }: { versions: Version[]; onSettled: (r: ChangeResult) => void }) {
  const [shown, setShown] = useState<Version | null>(null)
  const [busy, setBusy] = useState(false)
  const back = async (v: Version) => {
    setBusy(true)
    try {
      onSettled(await post<ChangeResult>('config/rollback', { to: String(v.n), confirm: '90s' }))
    } catch (err) {
      failed(err)
    }
    setBusy(false)
  }
  return (
    <section class="card" aria-label={t('history')}>
      <header>
        <h2>{t('history')}</h2>
      </header>
      {versions.length === 0 ? (
        <p class="empty">{t('history.none')}</p>
      ) : (
        <ol class="history" data-test="history">
          {versions.map((v) => (
            <li key={v.n}>
              <div class="bar">
                <span class="num">
                  <strong>{number(v.n)}</strong>
                </span>
                <Mono>{v.hash.slice(0, 12)}</Mono>
                {v.live && <span class="tag ok">{t('history.live')}</span>}
                {v.outcome && <span class={`tag ${outcomes[v.outcome] ?? ''}`}>{t(`outcome.${v.outcome}` as Key)}</span>}
                <span class="ok num">+{number(v.added)}</span>
                <span class="bad num">−{number(v.removed)}</span>
                <span class="grow" />
                <button type="button" class="plain" onClick={() => void get<Version>(`config/versions/${v.n}?diff=1`).then(setShown, failed)}>
                  {t('history.show')}
                </button>
                <button type="button" disabled={!mayChange() || busy || !!status.value?.confirm || v.live || v.outcome === 'damaged'} onClick={() => void back(v)}>
                  <Icon name="undo" />
                  {t('history.back')}
                </button>
              </div>
              <p class="muted">
                <By who={v.who} time={v.time} /> · <bdi>{v.trigger}</bdi>
                {v.note && (
                  <>
                    {' · '}
                    <bdi>{v.note}</bdi>
                  </>
                )}
              </p>
            </li>
          ))}
        </ol>
      )}
      {shown && (
        <VersionDiff version={shown} onClose={() => setShown(null)}>
          <div class="bar">
            <button type="button" onClick={() => void draft.edit(new TextDecoder().decode(Uint8Array.from(atob(shown.policy!.main), (c) => c.charCodeAt(0)))).then(() => go('policy'), failed)}>
              {t('rule.open')}
            </button>
          </div>
        </VersionDiff>
      )}
    </section>
  )
}
