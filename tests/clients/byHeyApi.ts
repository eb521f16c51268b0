/* The client that @hey-api/openapi-ts makes, used: URL, API key, good request, bad request. */
import { readFileSync } from 'node:fs'
import { createClient } from './made/hey/client/index.js'
import { ca, caCrl, profiles, sign, signBatch } from './made/hey/sdk.gen.js'
import type { Problem } from './made/hey/types.gen.js'

const [url, key, good, bad] = process.argv.slice(2) as [string, string, string, string]
const client = (apiKey: string) => createClient({ baseUrl: url, auth: () => apiKey })
const read = (name: string) => readFileSync(name, 'utf8')

async function refusal(apiKey: string, csr: string) {
  const { error } = await sign({ client: client(apiKey), body: { csr } })
  if (!error) throw new Error('signed')
  const problem: Problem = error
  return { status: problem.status, code: problem.code, fields: (problem.errors ?? []).map(each => each.field) }
}

const caller = client(key)
const throwOnError = true
const signed = await sign({ client: caller, body: { csr: read(good), profile: 'client' }, throwOnError })
if (!('crt_pem' in signed.data)) throw new Error('a dry run')
const requests = [{ csr: read(good) }, { csr: read(bad) }]
const batch = await signBatch({ client: caller, body: { requests }, throwOnError })
const offered = await profiles({ client: caller, throwOnError })
const crl = await caCrl({ client: caller, throwOnError })
console.log(JSON.stringify({
  certificate: signed.data.crt_pem,
  not_after: Date.parse(signed.data.not_after) / 1000,
  refused: await refusal(key, read(bad)),
  forbidden: await refusal('x'.repeat(40), read(good)),
  root: (await ca({ client: caller, throwOnError })).data.root_pem,
  profiles: offered.data.profiles.map(each => each.name),
  batch: [batch.data.results[0]?.certificate?.crt_pem, batch.data.results[1]?.problem?.code],
  crl: Buffer.from(await (crl.data as Blob).arrayBuffer()).toString('hex')
}))
