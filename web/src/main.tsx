import './style.css'
import { render } from 'preact'
import { App } from './app'
import { login, resume } from './lib/api'
import { startLanguage } from './lib/i18n'
import { place } from './lib/router'
import { startTheme } from './lib/theme'
import { showHidden } from './lib/visible'

// begin signs in with a token behind #/login?token=, as the command that shows it
// offers, and takes it out of the address; a session that there is goes on.
async function begin(): Promise<void> {
  const token = place.value.page === 'login' ? place.value.params.get('token') : null
  if (token !== null) {
    history.replaceState(null, '', '#/')
    place.value = { page: '', params: new URLSearchParams() }
    await login(token).catch(() => undefined)
  }
  await resume()
}

showHidden()
startTheme()
// The language first: nothing is drawn before its words are here. That the daemon
// does not answer is told by the page itself.
await Promise.all([startLanguage(), begin().catch(() => undefined)])
render(<App />, document.getElementById('app')!)
