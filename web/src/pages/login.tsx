import { useState } from 'preact/hooks'
import { ended, login } from '../lib/api'
import { t } from '../lib/i18n'
import { Icon } from '../ui/icon'
import { Note } from '../ui/parts'

export function Login() {
  const [token, setToken] = useState('')
  const [error, setError] = useState('')
  const [busy, setBusy] = useState(false)
  const submit = async (e: Event) => {
    e.preventDefault()
    setBusy(true)
    try {
      await login(token.trim())
    } catch (err) {
      setError(err instanceof Error ? err.message : String(err))
    }
    setBusy(false)
  }
  return (
    <main class="login">
      <form class="card" onSubmit={submit}>
        <h1>netpolicy</h1>
        {ended.value && !error && <Note>{t('login.ended')}</Note>}
        <p>{t('login.how')}</p>
        <pre class="block">netpolicy token</pre>
        <label class="field">
          <span>{t('login.token')}</span>
          <input type="password" autocomplete="current-password" required value={token} onInput={(e) => setToken(e.currentTarget.value)} />
        </label>
        {error && <Note kind="error">{error}</Note>}
        <button type="submit" class="primary" disabled={busy || !token.trim()}>
          <Icon name="key" />
          {t('login')}
        </button>
      </form>
    </main>
  )
}
