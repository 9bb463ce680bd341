import { effect, signal } from '@preact/signals'
import { load, save } from './i18n'

export type Theme = 'system' | 'light' | 'dark'
const stored = 'netpolicy.theme'
const first = load(stored)
export const theme = signal<Theme>(first === 'light' || first === 'dark' ? first : 'system')

// dark says what is shown now; charts take their colours anew when it changes.
const system = matchMedia('(prefers-color-scheme: dark)')
export const dark = signal(false)

export function startTheme(): void {
  const settle = () => (dark.value = theme.value === 'dark' || (theme.value === 'system' && system.matches))
  system.addEventListener('change', settle)
  effect(() => {
    document.documentElement.dataset.theme = theme.value
    settle()
  })
}

export function setTheme(t: Theme): void {
  theme.value = t
  save(stored, t)
}
