import { useMemo } from 'preact/hooks'
import { mayChange, post } from '../lib/api'
import { type Call, Generator } from '../xray/core'
import { XrayGenerator } from '../xray/generator'
import { Manager } from '../xray/manager'
import { Subscriptions } from '../xray/subscriptions'
import type { Try } from '../xray/trial'
import { Title } from '../ui/parts'

const call: Call = (name, request) => post(`xray/${name}`, request)
const tryLink: Try = (link, url) => post('xray-test', { link, url })

export default function XrayPage() {
  const generator = useMemo(() => new Generator(call), [])
  return (
    <>
      <Title page="nav.xray" />
      <Manager />
      <Subscriptions />
      <XrayGenerator generator={generator} onTry={mayChange() ? tryLink : undefined} />
    </>
  )
}
