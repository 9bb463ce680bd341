import { useEffect, useState } from 'preact/hooks'
import { bytes, ms, number } from '../lib/format'
import { t } from '../lib/i18n'
import { Note } from '../ui/parts'

// The steps in the order in which they are taken.
const steps = ['start_ms', 'connect_ms', 'tls_ms', 'first_byte_ms', 'total_ms'] as const
export type TrialResult = Partial<Record<(typeof steps)[number], number>> & { ok: boolean; status?: number; bytes: number; error?: string; help?: string }
// url is the page to ask for; the daemon has its own for an empty one.
export type Try = (link: string, url: string) => Promise<TrialResult>

// Trial asks the daemon to fetch a page through a link, and shows how far it came.
export function Trial({ link, onTry }: { link: string; onTry: Try }) {
  const [busy, setBusy] = useState(false)
  const [url, setUrl] = useState('')
  const [result, setResult] = useState<{ of: string; is: TrialResult } | null>(null)
  useEffect(() => setResult(null), [link])
  const run = async (e: Event) => {
    e.preventDefault()
    setBusy(true)
    const is = await onTry(link, url.trim()).catch((err: Error): TrialResult => ({ ok: false, bytes: 0, error: err.message }))
    setResult({ of: link, is })
    setBusy(false)
  }
  // What was edited meanwhile is another link.
  const r = result?.of === link ? result.is : null
  return (
    <section class="stack tight" aria-label={t('trial')} data-test="trial">
      <form class="bar" onSubmit={(e) => void run(e)}>
        <label class="field grow">
          <span>{t('trial.url')}</span>
          <input type="url" pattern="https?://.+" maxLength={4000} dir="ltr" autocomplete="off" value={url} onInput={(e) => setUrl(e.currentTarget.value)} />
        </label>
        <button type="submit" disabled={busy} aria-busy={busy}>
          {t('trial')}
        </button>
      </form>
      {r && (
        <Note kind={r.ok ? 'ok' : 'error'}>
          {r.error && (
            <p lang="en" dir="ltr">
              {[r.error, r.help].filter(Boolean).join('. ')}
            </p>
          )}
          <dl class="facts">
            {steps.map(
              (s) =>
                r[s] !== undefined && (
                  <>
                    <dt>{t(`trial.${s}`)}</dt>
                    <dd>{ms(r[s])}</dd>
                  </>
                ),
            )}
            {r.ok && (
              <>
                <dt>{t('trial.answer')}</dt>
                <dd>
                  {number(r.status ?? 0)}, {bytes(r.bytes)}
                </dd>
              </>
            )}
          </dl>
        </Note>
      )}
    </section>
  )
}
