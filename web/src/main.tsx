import './style.css'
import { render } from 'preact'
import { App } from './app'
import { resume } from './lib/api'
import { startLanguage } from './lib/i18n'
import { startTheme } from './lib/theme'

startTheme()
// The language first: nothing is drawn before its words are here. That the daemon
// does not answer is told by the page itself.
await Promise.all([startLanguage(), resume().catch(() => undefined)])
render(<App />, document.getElementById('app')!)
