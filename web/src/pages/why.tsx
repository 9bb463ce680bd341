import { t } from '../lib/i18n'
import type { Answer, Near as NearRule } from '../lib/types'
import { Icon } from '../ui/icon'
import { Mono } from '../ui/parts'

export const targetOf = (a: Answer) => (Array.isArray(a.target) ? a.target.join(', ') : (a.target ?? ''))

// Verdict is a decision in one look: the rule, what it does, and why it was this one.
export function Verdict({ answer: a }: { answer: Answer }) {
  const blocked = a.action.startsWith('block')
  const target = targetOf(a)
  return (
    <div class="verdict stack tight">
      <p class="bar">
        <span class={`state ${blocked ? 'bad' : 'ok'}`}>
          <Icon name={blocked ? 'kill' : 'check'} />
          <Mono>
            {a.action || '–'} {target}
          </Mono>
        </span>
        {a.route && a.route !== target && (
          <span class="muted">
            → <Mono>{a.route}</Mono>
          </span>
        )}
        <span class="tag">{a.rule ? <Mono>{a.rule}</Mono> : t('default')}</span>
        {a.log && <span class="tag info">{t('logged')}</span>}
        {a.throttle && <span class="tag warn">{a.throttle}</span>}
      </p>
      <p lang="en" dir="ltr" class="muted" data-test="why">
        {a.why}
      </p>
      {a.pending && a.pending.length > 0 && <p class="muted">{t('pending', { facts: a.pending.join(', ') })}</p>}
    </div>
  )
}

// Near is the rules that nearly decided, each with the first condition that failed.
export function Near({ near, level = 3 }: { near: NearRule[]; level?: 2 | 3 }) {
  const Heading = level === 2 ? 'h2' : 'h3'
  if (near.length === 0) return <p class="muted">{t('near.none')}</p>
  return (
    <section>
      <Heading class="small">{t('near')}</Heading>
      <dl class="facts near" data-test="near">
        {near.map((n) => (
          <>
            <dt>
              <Icon name="close" />
              <Mono>{n.rule ?? '–'}</Mono>
            </dt>
            <dd>
              <Mono>{n.failed}</Mono>
            </dd>
          </>
        ))}
      </dl>
    </section>
  )
}
