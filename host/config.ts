/**
 * The configuration of a host. A key comes from, strongest first: the flag of `hatch up`, the
 * environment variable, `hatch.json`, the default. `natsUrl` is `--nats-url`, HATCH_NATS_URL and
 * `"natsUrl"`; the other keys likewise.
 */
import { readFileSync } from 'node:fs';
import { hostname, totalmem } from 'node:os';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { HatchError, messageOf } from './base/errors.ts';
import { dockerConfigFile } from './image/registry/credentials.ts';
import { isolationLayerNames } from './base/isolation.ts';
import { evictionPolicyNames } from './image/policy/eviction-policy.ts';
import { isSubnet, parseAddress } from './network/subnet.ts';

export type HostConfig = z.output<typeof hostConfigSchema>;

/**
 * Reads the configuration of `hatch up`. The file is `--config`, else HATCH_CONFIG, else
 * `hatch.json` in `directory` when there is one.
 * @throws HatchError `host.config_invalid` naming the key and where its value came from
 */
export function loadConfig(sources: {
  args?: string[];
  env?: NodeJS.ProcessEnv;
  directory?: string;
}): HostConfig {
  const { args = [], env = {}, directory = process.cwd() } = sources;
  const flags = readFlags(args);
  const file = readFile({ path: flags.config ?? env['HATCH_CONFIG'], directory });
  const values = new Map<Key, Sourced>();
  for (const key of configKeys) {
    const { environment } = namesOf(key);
    const flag = flags.values[namesOf(key).flag];
    const variable = environment.find((name) => (env[name] ?? '') !== '');
    if (typeof flag === 'string') {
      values.set(key, { value: fromText(key, flag), source: `--${namesOf(key).flag}` });
    } else if (variable !== undefined) {
      values.set(key, { value: fromText(key, env[variable] ?? ''), source: variable });
    } else if (Object.hasOwn(file.values, key)) {
      values.set(key, { value: file.values[key], source: `"${key}" in ${file.path}` });
    }
  }
  return check(values);
}

/** The flags of `hatch up` with their meaning and defaults, a line or two each. */
export function configHelp(): string {
  const rows = configKeys.map((key) => {
    const { flag, environment } = namesOf(key);
    const fallback = shape[key].safeParse(undefined).data;
    const defaults = fallback === undefined ? 'none' : String(fallback);
    const meaning = shape[key].description ?? '';
    return `  --${flag} <value>\n      ${meaning} (${environment.join(', ')}; default ${defaults})`;
  });
  return [...rows, '  --config <file>\n      JSON file with any of these keys (HATCH_CONFIG)'].join(
    '\n',
  );
}

const count = (fallback: number, max = 1_000_000): z.ZodDefault<z.ZodInt> =>
  z.int().min(1).max(max).default(fallback);

const natsFile = (meaning: string): z.ZodOptional<z.ZodString> =>
  z.string().min(1).optional().describe(meaning);

/** In a file a list, elsewhere with commas. */
function namesList(pattern = /./, must = 'must not be empty') {
  const list = z.array(z.string().regex(pattern, must));
  const text = z.string().transform((names) => names.split(',').filter(Boolean));
  return z.union([list, text.pipe(list)]).default([]);
}

const MiB = 2 ** 20;

/** The rest is for the host, its pages and whatever else runs there. */
const memoryShare = 0.8;

/** Of the machine, or of what the host's own control group allows it. */
function defaultMemoryMb(): number {
  const allowed = process.constrainedMemory() || Infinity;
  return Math.floor((Math.min(totalmem(), allowed) * memoryShare) / MiB);
}

const shape = {
  natsUrl: z
    .string()
    .regex(/^(?:nats|tls):\/\/\S+$/, 'must be like nats://host:4222')
    .optional()
    .describe('NATS server to join; without one the host starts its own'),
  natsToken: z.string().min(1).optional().describe('Token for the NATS server'),
  natsCredentialsFile: natsFile('NATS credentials (.creds) file'),
  natsNkeyFile: natsFile('File with the seed of a NATS user, as an nkey'),
  natsTlsCaFile: natsFile('Certificate authority of the NATS server, in PEM'),
  natsTlsCertFile: natsFile('Certificate to show to the NATS server, in PEM'),
  natsTlsKeyFile: natsFile('Key of natsTlsCertFile, in PEM'),
  natsInboxPrefix: z
    .string()
    .regex(/^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*$/, 'must be like _INBOX.host')
    .optional()
    .describe('Where this host receives replies on the NATS server; by default _INBOX'),
  natsPort: z
    .int()
    .min(1)
    .max(65_535)
    .optional()
    .describe('Port of the embedded NATS server; by default the one of the last run or a free one'),
  hostName: z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/, 'must be 1 to 63 of A-Z a-z 0-9 _ . -')
    .default(() => hostname())
    .describe('Name of this host in answers and traces'),
  stateDirectory: z
    .string()
    .startsWith('/', 'must be an absolute path')
    .default('/var/lib/hatchery')
    .describe('Layers, writable roots and the embedded NATS server; one host each'),
  storage: z
    .enum(['overlay', 'btrfs', 'zfs'])
    .optional()
    .describe(
      'Storage driver of functions that name none; by default btrfs or zfs where stateDirectory ' +
        'is on that, else overlay',
    ),
  secretsKeyFile: z
    .string()
    .startsWith('/', 'must be an absolute path')
    .optional()
    .describe('Keys that open secrets, the same for all hosts; by default made in stateDirectory'),
  cgroupParent: z
    .string()
    .regex(/^hatch[A-Za-z0-9_-]{0,50}$/, 'must begin with "hatch" and be of A-Z a-z 0-9 _ -')
    .default('hatchery')
    .describe('Control group that holds all instances; one host each'),
  baseImageDirectory: z
    .string()
    .min(1)
    .default(() => resolve(import.meta.dirname, '../.cache/images/node24'))
    .describe('OCI image layout of the base image'),
  parked: z
    .int()
    .min(0)
    .max(10_000)
    .default(4)
    .describe('Containers kept forked and ready for any function of the default tenant'),
  parkedMax: z
    .int()
    .min(0)
    .max(10_000)
    .default(64)
    .describe('Containers kept ready at most, when functions start often'),
  parkedPerSecondMax: count(200).describe('Most containers parked in a second'),
  instancesMax: count(1000).describe('Instances this host runs at the same time'),
  memoryBudgetMb: z
    .int()
    .min(64)
    .default(defaultMemoryMb)
    .describe('Memory of all containers in MiB, as measured; idle ones make room for new ones'),
  freezeIdleAfterMs: z
    .int()
    .min(0)
    .max(86_400_000)
    .optional()
    .describe(
      'Idle time after which an instance stands still until its next call, in milliseconds',
    ),
  queueLengthMax: count(1024).describe('Calls that may wait for an instance'),
  inFlightMax: count(4096).describe('Calls admitted at the same time, waiting ones included'),
  drainMs: z
    .int()
    .min(0)
    .max(3_600_000)
    .default(30_000)
    .describe('How long calls may go on when the host stops, in milliseconds'),
  bundles: z
    .string()
    .regex(/^[^\s:@/]+(:\d+)?\/[^\s:@]+$/, 'must be like registry.example/team/bundles')
    .optional()
    .describe('Repository of a registry for the layers of new versions; default: in NATS'),
  layerCacheBytes: z
    .int()
    .min(64 * 1024 * 1024)
    .default(10 * 1024 ** 3)
    .describe('Most bytes of unpacked layers on disk'),
  layerCachePolicy: z
    .enum(evictionPolicyNames)
    .default('gdsf')
    .describe('Which layers go when that is used up: by use, size and cost, or least recent first'),
  registryCredentialsFile: z
    .string()
    .startsWith('/', 'must be an absolute path')
    .default(() => dockerConfigFile(process.env))
    .describe("Credentials for registries, in the form of Docker's config.json"),
  registryMirrors: namesList(
    /^[^=\s]+=https?:\/\/[^=\s]+$/,
    'must be like docker.io=https://host',
  ).describe('Hosts to ask before a registry: docker.io=https://host:5000,…'),
  registriesInsecure: namesList().describe(
    'Registries that are asked over plain HTTP: host:port,…',
  ),
  registryCaFile: z
    .string()
    .min(1)
    .optional()
    .describe('Further certificate authorities of registries, in PEM'),
  downloadsMax: count(3, 64).describe('Layers downloaded at the same time'),
  uidBase: z
    .int()
    .min(65_536)
    .max(4_000_000_000)
    .default(100_000)
    .describe('First host user id of the containers'),
  uidRanges: z
    .int()
    .min(1)
    .max(60_000)
    .default(4096)
    .describe('Ranges of 65536 user ids from uidBase on; one for each container'),
  networkBridge: z
    .string()
    .regex(/^hatch[a-z0-9]{1,4}$/, 'must be "hatch" and 1 to 4 of a-z 0-9')
    .default('hatch0')
    .describe('Bridge of the functions with egress, made when one is deployed; one host each'),
  networkIpv4: z
    .string()
    .refine((text) => isSubnet(text, 4, 16, 29), 'must be like 10.10.0.0/24, of /16 to /29')
    .default('10.10.0.0/24')
    .describe('IPv4 addresses of the bridge and of instances with egress'),
  networkIpv6: z
    .string()
    .refine((text) => isSubnet(text, 6, 8, 112), 'must be like fd00:1234::/64, of at most /112')
    .default('fd68:6174:6368::/64')
    .describe('IPv6 addresses of the bridge and of instances with egress'),
  firewall: z
    .enum(['auto', 'nftables', 'iptables'])
    .default('auto')
    .describe('What enforces egress lists; auto: iptables where its rules drop what is forwarded'),
  nameservers: z
    .string()
    .refine((text) => text.split(',').every((one) => parseAddress(one) !== undefined), {
      message: 'must be addresses with commas between them',
    })
    .optional()
    .describe('Nameservers of functions that may go anywhere; by default those of this machine'),
  fork: z
    .enum(['auto', 'never'])
    .default('auto')
    .describe('never: start instances by exec, as if this Node could not fork'),
  replaceZygoteAfterForks: count(10_000).describe('Forks after which a zygote is replaced'),
  replaceZygoteAfterMs: count(3_600_000, 604_800_000).describe(
    'Age at which a zygote is replaced, in milliseconds',
  ),
  zygotesMax: count(8, 1000).describe('Zygotes at the same time: one for each tenant in use'),
  zygoteIdleMs: count(600_000, 86_400_000).describe(
    "Time without a start after which a tenant's zygote ends, in milliseconds",
  ),
  requireLayers: z
    .union([
      z.array(z.enum(isolationLayerNames)),
      z
        .string()
        .transform((text) => text.split(',').filter(Boolean))
        .pipe(z.array(z.enum(isolationLayerNames))),
    ])
    .default([])
    .describe(
      `Isolation without which the host does not start: of ${isolationLayerNames.join(',')}`,
    ),
  seLinuxLabel: z
    .string()
    .regex(/^[^\s:]+:[^\s:]+:[^\s:]+(:\S+)?$/, 'must be like user_u:role_r:type_t:s0')
    .optional()
    .describe('Label of functions where SELinux is enforcing; one that the host may change to'),
  otlpEndpoint: z
    .string()
    .regex(/^https?:\/\/\S+$/, 'must be like http://host:4318')
    .optional()
    .describe('OTLP/HTTP collector that gets traces and metrics'),
  traceCountMax: count(10_000).describe('Calls whose traces are kept for "hatch trace"'),
  logBytesMax: z
    .int()
    .min(1024)
    .max(1024 ** 3)
    .default(16 * 1024 * 1024)
    .describe('Bytes of output kept for "hatch logs", all functions together'),
  logLevel: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
    .default('info')
    .describe('Least level of what the host logs'),
};

const hostConfigSchema = z.strictObject(shape).superRefine((config, context) => {
  if (config.uidBase + config.uidRanges * 65_536 > 2 ** 32 - 65_536) {
    const message = 'uidBase and uidRanges reach past the last user id';
    context.addIssue({ code: 'custom', path: ['uidRanges'], message });
  }
  for (const { path, message } of accessProblems(config))
    context.addIssue({ code: 'custom', path: [path], message });
});

function accessProblems(config: Partial<HostConfig>): { path: Key; message: string }[] {
  const { natsUrl, natsTlsCertFile: cert, natsTlsKeyFile: key } = config;
  const problems = configKeys
    .filter((path) => /^nats.+(?:File|Prefix)$/.test(path) && config[path] !== undefined)
    .filter(() => natsUrl === undefined)
    .map((path) => ({ path, message: 'is for a server of yours: set natsUrl too' }));
  if (config.natsCredentialsFile !== undefined && config.natsNkeyFile !== undefined)
    problems.push({ path: 'natsNkeyFile', message: 'is in natsCredentialsFile: give one of them' });
  if ((cert === undefined) !== (key === undefined)) {
    const path = cert === undefined ? 'natsTlsKeyFile' : 'natsTlsCertFile';
    problems.push({ path, message: 'a certificate and its key belong together: set both' });
  }
  return problems;
}

type Key = keyof typeof shape;
const configKeys = Object.keys(shape) as Key[];

interface Sourced {
  value: unknown;
  source: string;
}

function namesOf(key: Key): { flag: string; environment: string[] } {
  const words = key.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toLowerCase();
  const environment = [`HATCH_${words.toUpperCase()}`];
  if (key === 'otlpEndpoint') environment.push('OTEL_EXPORTER_OTLP_ENDPOINT');
  return { flag: words.replaceAll('_', '-'), environment };
}

function readFlags(args: string[]): {
  values: Record<string, string | boolean | undefined>;
  config: string | undefined;
} {
  const options = Object.fromEntries(
    configKeys.map((key) => [namesOf(key).flag, { type: 'string' as const }]),
  );
  try {
    const { values } = parseArgs({ args, options: { ...options, config: { type: 'string' } } });
    const { config } = values;
    return { values, config: typeof config === 'string' ? config : undefined };
  } catch (error) {
    throw invalid(`${messageOf(error)} ("hatch up --help" lists the flags)`, error);
  }
}

function readFile({ path, directory }: { path: string | undefined; directory: string }): {
  path: string;
  values: Record<string, unknown>;
} {
  const file = resolve(directory, path ?? 'hatch.json');
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    if (path === undefined && missing) return { path: file, values: {} };
    throw invalid(`cannot read "${file}": ${messageOf(error)}`, error);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw invalid(`"${file}" is no JSON: ${messageOf(error)}`, error);
  }
  const object = z.record(z.string(), z.unknown()).safeParse(value);
  if (!object.success) throw invalid(`"${file}" must hold one JSON object`);
  const unknown = Object.keys(object.data).find((key) => !Object.hasOwn(shape, key));
  if (unknown !== undefined) throw invalid(`"${unknown}" in ${file} is not a key of the host`);
  return { path: file, values: object.data };
}

/** Flags and variables are text; a key that wants a number gets one when the text is one. */
function fromText(key: Key, text: string): unknown {
  if (shape[key].safeParse(text).success) return text;
  const number = Number(text);
  return text.trim() === '' || Number.isNaN(number) ? text : number;
}

function check(values: Map<Key, Sourced>): HostConfig {
  const raw = Object.fromEntries([...values].map(([key, { value }]) => [key, value]));
  const parsed = hostConfigSchema.safeParse(raw);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => {
    const key = String(path[0]);
    const source = values.get(key as Key)?.source ?? key;
    return { key, source, message };
  });
  const texts = problems.map(({ source, message }) => `${source}: ${message}`);
  throw new HatchError('host.config_invalid', `Cannot use the configuration: ${texts.join('; ')}`, {
    details: { problems },
  });
}

function invalid(problem: string, cause?: unknown): HatchError {
  const message = `Cannot use the configuration: ${problem}`;
  return new HatchError('host.config_invalid', message, cause === undefined ? {} : { cause });
}
