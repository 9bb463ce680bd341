import { StreamLanguage, type StreamParser } from '@codemirror/language'
import type { Syntax } from '../lib/types'

// Colours for the two syntaxes, by word: what is right or wrong in them the daemon
// says. Names of tokens are those of @lezer/highlight.
const statements = /^(policy|import|set|uplink|route|group|throttle|quota|schedule|condition|health|daemon|default|rule|assert|never|always|unreachable)$/
const clauses = /^(match|when|do|priority|disabled|disable|on_unknown|description|allow|via|dev|gateway|probe|every|threshold|state|file|url|format|per|limit|reset|for|where)$/
const operators = /^(and|or|not|in|like|any)$/
const actions = /^(route|switch_route|fallback|failover|block|reject|log|throttle|continue|mark)$/
const states = /^(NORMAL|DEGRADED|FAILOVER|RECOVERY)$/

export const npl: StreamParser<{ fresh: boolean; doing: boolean }> = {
  startState: () => ({ fresh: true, doing: false }),
  token(s, st) {
    if (s.sol()) st.fresh = true
    if (s.eatSpace()) return null
    if (s.match(/#.*/)) return 'comment'
    if (s.match(/"(?:[^"\\]|\\.)*"?/)) {
      st.fresh = false
      return 'string'
    }
    if (s.match(/[{};]/)) {
      st.fresh = true
      st.doing = false
      return 'punctuation'
    }
    if (s.match(/[(),=<>!]+|->/)) return 'operator'
    const word = s.match(/[^\s{}(),;=<>!"#]+/) as RegExpMatchArray | null
    if (!word) {
      s.next()
      return null
    }
    const w = word[0]
    const fresh = st.fresh
    st.fresh = false
    if (w === 'do') st.doing = true
    if (fresh && statements.test(w)) return 'keyword'
    if (st.doing && actions.test(w)) return 'keyword'
    if (clauses.test(w)) return 'keyword'
    if (operators.test(w)) return 'operatorKeyword'
    if (states.test(w)) return 'atom'
    if (/^[0-9]/.test(w)) return 'number'
    return null
  },
  languageData: { commentTokens: { line: '#' } },
}

export const yaml: StreamParser<{ value: boolean }> = {
  startState: () => ({ value: false }),
  token(s, st) {
    if (s.sol()) st.value = false
    if (s.eatSpace()) return null
    if (s.match(/#.*/)) return 'comment'
    if (s.match(/"(?:[^"\\]|\\.)*"?/) || s.match(/'(?:[^']|'')*'?/)) return 'string'
    if (s.match(/[[\]{},]/)) {
      st.value = false
      return 'punctuation'
    }
    if (s.match(/-(?=\s)/)) return 'punctuation'
    if (!st.value && s.match(/[^\s#"'[\]{},:][^#"'[\]{},:]*(?=:(\s|$))/)) return 'propertyName'
    if (s.match(/:(?=\s|$)/)) {
      st.value = true
      return 'punctuation'
    }
    const word = s.match(/[^\s[\]{},#"']+/) as RegExpMatchArray | null
    if (!word) {
      s.next()
      return null
    }
    if (states.test(word[0])) return 'atom'
    if (/^(true|false)$/.test(word[0])) return 'bool'
    return /^[0-9]/.test(word[0]) ? 'number' : null
  },
  languageData: { commentTokens: { line: '#' } },
}

export const languageFor = (s: Syntax) => StreamLanguage.define<unknown>((s === 'npl' ? npl : yaml) as StreamParser<unknown>)
