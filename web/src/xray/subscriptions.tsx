import { useState } from 'preact/hooks'
import { failed } from '../lib/announce'
import { get, mayChange, post } from '../lib/api'
import { bytes, dateTime } from '../lib/format'
import { t, tn } from '../lib/i18n'
import { Mono, Note, useAsk, useEvery } from '../ui/parts'
import { orNone } from './manager'

interface Profile { id: string; name: string; protocol: string; server: string; chosen?: boolean }
interface Subscription {
  name: string; url?: string; via?: string; usable: number; refused: number; reasons?: string[]; chosen?: Profile; lost?: boolean
  fetched?: string; problem?: string; used?: number; total?: number; expires?: string; profiles?: Profile[]
}

// Subscriptions are those that the daemon keeps for the policy's routes: whoever may
// change things adds, fetches and removes them here, and chooses a profile.
export function Subscriptions() {
  const asked = useAsk(() => orNone<Subscription[]>('subscriptions'), [])
  useEvery(asked.again, 5000)
  const list = asked.value
  if (asked.error) return <Note kind="error">{asked.error}</Note>
  if (!list) return null
  return (
    <section class="card" aria-label={t('subs')} data-test="subscriptions">
      <header>
        <h2>{t('subs')}</h2>
      </header>
      <div class="body stack">
        {list.length === 0 && <p class="muted">{t('subs.none')}</p>}
        {list.map((s) => (
          <One key={s.name} s={s} again={asked.again} />
        ))}
        {mayChange() && <Add again={asked.again} />}
      </div>
    </section>
  )
}

function One({ s, again }: { s: Subscription; again: () => void }) {
  const [open, setOpen] = useState(false)
  const [busy, setBusy] = useState(false)
  const asked = useAsk(async () => (open ? ((await get<Subscription>(`subscriptions/${encodeURIComponent(s.name)}`)).profiles ?? []) : []), [open, s.fetched, s.chosen?.id])
  const does = async (what: string, profile?: string) => {
    setBusy(true)
    try {
      await post('subscriptions', { do: what, name: s.name, profile })
      again()
    } catch (err) {
      failed(err)
    } finally {
      setBusy(false)
    }
  }
  const may = mayChange() && !busy
  return (
    <div>
      <div class="bar">
        <b>
          <bdi>{s.name}</bdi>
        </b>
        <Mono>{s.url}</Mono>
        <span class="muted">
          {[
            s.via && `${t('manager.route')}: ${s.via}`,
            s.fetched && dateTime(new Date(s.fetched)),
            s.total ? `${bytes(s.used ?? 0)} / ${bytes(s.total)}` : s.used && bytes(s.used),
            s.expires && t('state.until', { when: dateTime(new Date(s.expires)) }),
            s.refused > 0 && tn('subs.refused', s.refused),
          ]
            .filter(Boolean)
            .join(' · ')}
        </span>
        <span class="grow" />
        <button type="button" disabled={!may} onClick={() => void does('update')}>
          {t('subs.update')}
        </button>
        <button type="button" disabled={!may} onClick={() => confirm(t('xray.fixRemove', { key: s.name })) && void does('remove')}>
          {t('xray.remove')}
        </button>
      </div>
      {s.problem && (
        <Note kind="warning">
          <span lang="en" dir="ltr">
            {s.problem}
          </span>
        </Note>
      )}
      {s.lost && <Note kind="warning">{t('subs.lost', { name: s.chosen?.name ?? '' })}</Note>}
      <details onToggle={(e) => setOpen(e.currentTarget.open)}>
        <summary>
          {tn('profiles', s.usable)}
          {s.chosen && !s.lost && (
            <>
              {' · '}
              {t('manager.chosen')}: <bdi>{s.chosen.name}</bdi>
            </>
          )}
        </summary>
        {(s.reasons?.length ?? 0) > 0 && (
          <p class="muted" lang="en" dir="ltr">
            {s.reasons!.join('; ')}
          </p>
        )}
        {asked.error && <Note kind="error">{asked.error}</Note>}
        <ul class="profiles">
          {asked.value?.map((p) => (
            <li key={p.id}>
              {/* A second press takes the choice back. */}
              <button type="button" class="plain" disabled={!may} aria-pressed={p.chosen === true} onClick={() => void does('choose', p.chosen ? '' : p.id)}>
                <bdi class="cut grow" title={p.name}>
                  {p.name}
                </bdi>
                <span class="tag">{p.protocol}</span>
                <Mono cut>{p.server}</Mono>
              </button>
            </li>
          ))}
        </ul>
      </details>
    </div>
  )
}

// word is what a name may have, in any language.
const word = 'A-Z a-z 0-9 - _'
const blank = { name: '', url: '', via: '' }

function Add({ again }: { again: () => void }) {
  const [q, setQ] = useState(blank)
  const [busy, setBusy] = useState(false)
  const add = async (e: Event) => {
    e.preventDefault()
    setBusy(true)
    try {
      await post('subscriptions', { do: 'add', ...q })
      setQ(blank)
      again()
    } catch (err) {
      failed(err)
    } finally {
      setBusy(false)
    }
  }
  const field = (key: keyof typeof blank, label: string, more: object) => (
    <label class="field">
      <span>{label}</span>
      <input maxLength={4000} autocomplete="off" value={q[key]} onInput={(e) => setQ({ ...q, [key]: e.currentTarget.value })} {...more} />
    </label>
  )
  return (
    <form onSubmit={add}>
      <div class="fields">
        {field('name', t('key.name'), { required: true, pattern: '[A-Za-z0-9_\\-]+', placeholder: word, title: word, maxLength: 64 })}
        {field('url', t('subs.url'), { required: true, inputMode: 'url' })}
        {field('via', t('manager.route'), {})}
        <button type="submit" disabled={busy}>
          {t('subs.add')}
        </button>
      </div>
    </form>
  )
}
