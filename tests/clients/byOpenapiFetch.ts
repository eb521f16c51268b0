/* The types that openapi-typescript makes, used by openapi-fetch: URL, API key, good request, bad request. */
import { readFileSync } from 'node:fs'
import createClient from 'openapi-fetch'
import type { components, paths } from './made/schema.js'

type Problem = components['schemas']['Problem']

const [url, key, good, bad] = process.argv.slice(2) as [string, string, string, string]
const baseUrl = url
const client = (apiKey: string) => createClient<paths>({ baseUrl, headers: { 'x-api-key': apiKey } })
const read = (name: string) => readFileSync(name, 'utf8')

function told<T>(answer: { data?: T; error?: Problem }): T {
  if (answer.data === undefined) throw new Error(answer.error?.detail)
  return answer.data
}

async function refusal(apiKey: string, csr: string) {
  const { error } = await client(apiKey).POST('/sign', { body: { csr, text: false } })
  if (!error) throw new Error('signed')
  const problem: Problem = error
  return { status: problem.status, code: problem.code, fields: (problem.errors ?? []).map(each => each.field) }
}

const caller = client(key)
const signed = told(await caller.POST('/sign', { body: { csr: read(good), profile: 'client', text: true } }))
if (!('crt_pem' in signed)) throw new Error('a dry run')
const requests = [{ csr: read(good) }, { csr: read(bad) }]
const batch = told(await caller.POST('/sign/batch', { body: { requests, text: false } }))
const profiles = told(await caller.GET('/profiles'))
const crl = await caller.GET('/ca.crl', { parseAs: 'arrayBuffer' })
console.log(JSON.stringify({
  certificate: signed.crt_pem,
  not_after: Date.parse(signed.not_after) / 1000,
  refused: await refusal(key, read(bad)),
  forbidden: await refusal('x'.repeat(40), read(good)),
  root: told(await caller.GET('/ca')).root_pem,
  profiles: profiles.profiles.map(each => each.name),
  batch: [batch.results[0]?.certificate?.crt_pem, batch.results[1]?.problem?.code],
  crl: Buffer.from(told(crl)).toString('hex')
}))
