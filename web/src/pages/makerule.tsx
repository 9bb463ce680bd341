import { useMemo, useState } from 'preact/hooks'
import { failed } from '../lib/announce'
import { get } from '../lib/api'
import type { Row } from '../lib/connections'
import { edited, open } from '../lib/draft'
import { status } from '../lib/events'
import { t } from '../lib/i18n'
import { go } from '../lib/router'
import { choices, expression, insert, nameFor } from '../lib/rule'
import type { Rules } from '../lib/types'
import { Dialog, Mono, Note, useAsk } from '../ui/parts'

// MakeRule asks by what a connection is to be known again and what is to become of
// it, and opens the editor with that rule in the policy. Nothing is applied.
export function MakeRule({ row, onClose }: { row: Row; onClose: () => void }) {
  const by = useMemo(() => choices(row.flow, row.name), [row.id])
  const [choice, setChoice] = useState(0)
  const [withPort, setWithPort] = useState(true)
  const routes = (status.value?.uplinks ?? []).map((u) => `route ${u.name}`)
  const [action, setAction] = useState(routes.find((r) => r !== `route ${row.uplink}`) ?? 'block')
  const rules = useAsk(() => get<Rules>('rules'), [])
  const [busy, setBusy] = useState(false)

  const create = async (e: Event) => {
    e.preventDefault()
    if (!rules.value || busy) return
    setBusy(true)
    try {
      await open()
      const chosen = by[choice]!
      // One step before the rule that decides now, so that this one does.
      const decides = rules.value.rules.find((r) => r.name === row.decision.rule)
      const draft = {
        name: nameFor(chosen.value, rules.value.rules.map((r) => r.name)),
        priority: (decides?.priority ?? 0) + 1,
        match: expression(chosen, row.flow, withPort),
        action,
      }
      const now = edited.value!
      const { text, from, to } = insert(now.text, now.syntax, draft)
      edited.value = { ...now, text, select: { from, to, before: now.text } }
      go('policy')
    } catch (err) {
      failed(err)
      setBusy(false)
    }
  }
  return (
    <Dialog title={t('rule.make')} onClose={onClose}>
      <form class="stack" onSubmit={create}>
        <fieldset class="plain">
          <legend>{t('rule.by')}</legend>
          {by.map((c, i) => (
            <label key={c.expression} class="check">
              <input type="radio" name="by" checked={i === choice} onChange={() => setChoice(i)} />
              <span>{t(`rule.by.${c.id}`)}</span>
              <Mono cut>{c.value}</Mono>
            </label>
          ))}
          <label class="check">
            <input type="checkbox" checked={withPort} onChange={(e) => setWithPort(e.currentTarget.checked)} />
            {t('rule.port')}
          </label>
        </fieldset>
        <label class="field">
          <span>{t('rule.action')}</span>
          <select value={action} onChange={(e) => setAction(e.currentTarget.value)}>
            {[...routes, 'block', 'block reject', 'log'].map((a) => (
              <option key={a} value={a}>
                {a}
              </option>
            ))}
          </select>
        </label>
        {rules.error && <Note kind="error">{rules.error}</Note>}
        <p class="muted">{t('rule.how')}</p>
        <div class="bar">
          <button type="button" onClick={onClose}>
            {t('cancel')}
          </button>
          <button type="submit" class="primary" disabled={!rules.value || busy || by.length === 0}>
            {t('rule.open')}
          </button>
        </div>
      </form>
    </Dialog>
  )
}
