/**
 * `function.json`: what a developer says about a function. The schema describes everything the
 * format has; what this version of the host cannot do yet is refused by name, never ignored.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { HatchError, messageOf } from '../base/errors.ts';
import { parseRemoteName } from '../image/registry/remote-name.ts';
import { parseEgressRule } from '../network/egress.ts';
import { storageBeside, volumeProblems, volumesField } from './volume-fields.ts';
import {
  beyondMachine,
  contradictions,
  type Machine,
  optionalLimitFields,
} from './limit-fields.ts';

/** A manifest with every default filled in. Sizes in MiB, times in milliseconds, cpu in cores. */
export type FunctionManifest = Omit<
  z.output<typeof manifestSchema>,
  '$schema' | 'keepAlive' | 'keepAliveMs'
> & { keepAlive: KeepAlive };

export type KeepAlive = { policy: 'adaptive' } | { policy: 'fixed'; minutes: number };

/** One mistake in a manifest; `path` as in JavaScript: `network.egress[0]`, empty for the whole. */
export interface ManifestProblem {
  path: string;
  message: string;
}

export const manifestFileName = 'function.json';

/**
 * Reads `function.json` in a function's folder.
 * @throws HatchError `deploy.invalid` when it is missing, no JSON, or not a valid manifest
 */
export async function readManifest(directory: string): Promise<FunctionManifest> {
  const path = join(directory, manifestFileName);
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    throw new HatchError('deploy.invalid', `Cannot read "${path}": ${messageOf(error)}`, {
      cause: error,
    });
  }
  return parseManifest(value);
}

/**
 * Checks a manifest and fills in the defaults. Parsing its own result again changes nothing.
 * @throws HatchError `deploy.invalid`; `details.problems` is a list of ManifestProblem
 */
export function parseManifest(value: unknown): FunctionManifest {
  const parsed = manifestSchema.safeParse(value);
  if (!parsed.success) throw invalid(parsed.error.issues.flatMap(problemsOf));
  const { $schema: _, keepAlive, keepAliveMs, ...rest } = parsed.data;
  if (keepAlive !== undefined && keepAliveMs !== undefined)
    throw invalid([{ path: 'keepAliveMs', message: 'is said by keepAlive already' }]);
  const manifest = {
    ...rest,
    ...storageBeside(rest),
    keepAlive: keepAlive ?? keepAliveOf(keepAliveMs),
  };
  refuse([
    ...reservedNames(manifest),
    ...volumeProblems(manifest),
    ...contradictions(manifest),
    ...unusable(manifest),
    ...unsupported(manifest),
  ]);
  return manifest;
}

/** @throws HatchError `deploy.invalid` when a function's limits are more than this machine has */
export function refuseBeyondMachine(manifest: FunctionManifest, machine: Machine): void {
  refuse(beyondMachine(manifest, machine));
}

/** The JSON Schema of `function.json`, for editors: `functions/function.schema.json`. */
export function manifestJsonSchema(): Record<string, unknown> {
  return { ...z.toJSONSchema(manifestSchema, { io: 'input' }), title: 'Hatchery function' };
}

export const functionNamePattern = /^[a-z0-9][a-z0-9-]{0,62}$/;

/** The whole record has to fit into one message. */
const envLengthMax = 64 * 1024;
const relativePath = z
  .string()
  .min(1)
  .max(255)
  .regex(/^(?!\/)(?!(?:.*\/)?\.\.(?:\/|$))[^\0\\]+$/, 'must be relative and stay in the folder');
export const variableName = z
  .string()
  .max(128)
  .regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'must be letters, digits and _');
const egressRule = z
  .string()
  .max(300)
  .refine((text) => parseEgressRule(text) !== undefined, {
    message: 'must be like 443/tcp, 10.0.0.0/8, [2001:db8::/32]:443/tcp or example.com:443/tcp',
  });

const imageName = z
  .string()
  .min(1)
  .max(512)
  .refine((text) => isImageName(text), {
    message: 'must be the name of an image, like registry.example/team/app:1.2',
  });

const manifestSchema = z.strictObject({
  $schema: z.string().optional().describe('Where editors find the schema of this file'),
  name: z
    .string()
    .regex(functionNamePattern, 'must be 1 to 63 of a-z, 0-9 and -, not starting with -')
    .describe('Callable as the NATS subject hatch.fn.<name>'),
  entry: relativePath
    .regex(/\.[cm]?[jt]sx?$/, 'must be a TypeScript or JavaScript file')
    .describe('The file that exports `handler`, relative to this folder'),
  runtime: z.enum(['node24']).default('node24').describe('Base image the function runs in'),
  files: z
    .array(relativePath)
    .max(64)
    .default([])
    .describe('Globs of further files to ship beside the bundle, from this folder or build.ts'),
  memoryMb: int(16, 65_536, 128).describe('Memory of one instance in MiB; more ends it'),
  ...optionalLimitFields,
  cpu: z.number().min(0.01).max(256).default(1).describe('CPU quota of one instance in cores'),
  cpuWeight: int(1, 10_000, 100).describe('Share of the CPU when instances compete'),
  pidsMax: int(8, 32_768, 64).describe('Processes and threads of one instance, PID 1 included'),
  timeoutMs: int(1, 900_000, 30_000).describe('Longest time a call may take'),
  graceMs: int(0, 60_000, 250).describe(
    'How long a call may go on after its time or its cancellation; then its instance is killed',
  ),
  concurrency: int(1, 1000, 1).describe('Calls one instance serves at the same time'),
  instancesMax: int(1, 10_000, 32).describe('Instances one host runs at the same time'),
  parked: int(0, 1000, 0).describe('Parked containers to keep ready for this function'),
  keepAlive: z
    .discriminatedUnion('policy', [
      z.strictObject({ policy: z.literal('adaptive') }),
      z.strictObject({ policy: z.literal('fixed'), minutes: z.number().min(0).max(1440) }),
    ])
    .optional()
    .describe('How long an idle instance stays hot; adaptive, the default, learns it from calls'),
  keepAliveMs: z
    .int()
    .min(0)
    .max(86_400_000)
    .optional()
    .describe('The same as keepAlive with a fixed time, in milliseconds'),
  freezeIdleAfterMs: z
    .union([z.literal('never'), z.int().min(0).max(86_400_000)])
    .optional()
    .describe(
      'Idle time after which an instance stands still until its next call; else the host says',
    ),
  reuse: z
    .enum(['same-function', 'never'])
    .default('same-function')
    .describe('never: each call gets an instance of its own'),
  seccomp: z
    .enum(['node', 'strict'])
    .default('node')
    .describe('System calls allowed; strict: no sockets, no child processes'),
  tenant: z
    .string()
    .regex(functionNamePattern, 'must be 1 to 63 of a-z, 0-9 and -, not starting with -')
    .default('default')
    .describe('Whose it is: only functions of one tenant are forked from the same process'),
  isolation: z
    .enum(['fork', 'exec'])
    .default('fork')
    .describe('exec: each instance boots a Node.js of its own, and shares no memory layout'),
  storage: z
    .enum(['overlay', 'btrfs', 'zfs'])
    .optional()
    .describe(
      'Storage driver: overlay writes to memory and copies files up, btrfs and zfs to disk, and ' +
        "blocks only; by default the host's choice; beside volumes always overlay",
    ),
  network: z
    .union([
      z.literal('none'),
      z.strictObject({
        egress: z
          .array(egressRule)
          .max(64)
          .describe('What instances may reach: 443/tcp, 10.0.0.0/8, example.com:443/tcp'),
      }),
    ])
    .default('none')
    .describe('none: loopback only; else what is listed, by IPv4 and IPv6, and nothing else'),
  env: z
    .record(
      variableName,
      z
        .string()
        .max(32_768)
        .regex(/^[^\0]*$/, 'must not contain NUL'),
    )
    .refine((env) => JSON.stringify(env).length <= envLengthMax, 'must be at most 64 KiB of JSON')
    .default({})
    .describe('Environment variables'),
  secrets: z
    .array(
      z.union([
        variableName.transform((name) => ({ name, as: 'file' as const })),
        z.strictObject({ name: variableName, as: z.enum(['file', 'env']) }),
      ]),
    )
    .max(64)
    .default([])
    .describe('Secrets, as files /run/secrets/<name>; {"name", "as": "env"}: as a variable, too'),
  volumes: volumesField,
  image: imageName
    .optional()
    .describe('An image of a registry whose files the function finds, below those of its runtime'),
  layers: z
    .array(imageName)
    .max(64)
    .default([])
    .describe('Images of a registry whose files lie above those of the runtime, the lowest first'),
  triggers: z
    .array(z.record(z.string(), z.unknown()))
    .max(32)
    .default([])
    .describe('What calls the function besides its subject'),
});

function isImageName(text: string): boolean {
  try {
    parseRemoteName(text);
    return true;
  } catch {
    return false;
  }
}

function int(min: number, max: number, fallback: number): z.ZodDefault<z.ZodInt> {
  return z.int().min(min).max(max).default(fallback);
}

function keepAliveOf(keepAliveMs: number | undefined): KeepAlive {
  if (keepAliveMs === undefined) return { policy: 'adaptive' };
  return { policy: 'fixed', minutes: keepAliveMs / 60_000 };
}

/** Our own variables would silently win over the developer's, and secrets over each other. */
function reservedNames({ env, secrets }: FunctionManifest): ManifestProblem[] {
  const reserved = 'names with HATCH_ are reserved';
  const variables = Object.keys(env)
    .filter((name) => name.startsWith('HATCH_'))
    .map((name) => ({ path: `env.${name}`, message: reserved }));
  const named = secrets.flatMap(({ name, as }, index) => {
    const path = `secrets[${index}]`;
    if (name.startsWith('HATCH_')) return [{ path, message: reserved }];
    if (as === 'env' && Object.hasOwn(env, name)) return [{ path, message: 'is in env already' }];
    const isSecond = secrets.findIndex((one) => one.name === name) < index;
    return isSecond ? [{ path, message: 'is named twice' }] : [];
  });
  return [...variables, ...named];
}

function unusable({ network, seccomp }: FunctionManifest): ManifestProblem[] {
  if (network === 'none' || seccomp === 'node') return [];
  const message = 'is of no use to a function whose seccomp profile has no sockets: "strict"';
  return [{ path: 'network', message }];
}

function unsupported(manifest: FunctionManifest): ManifestProblem[] {
  const found: [path: string, wanted: string | undefined][] = [
    ['triggers', manifest.triggers.length === 0 ? undefined : 'a list that is not empty'],
  ];
  return found.flatMap(([path, wanted]) =>
    wanted === undefined ? [] : [{ path, message: `${wanted} is not supported by this version` }],
  );
}

function problemsOf(issue: z.core.$ZodIssue): ManifestProblem[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({
      path: pathText([...issue.path, key]),
      message: 'is not a field of function.json',
    }));
  }
  if (issue.code === 'invalid_key') {
    return issue.issues.map(({ message }) => ({ path: pathText(issue.path), message }));
  }
  return [{ path: pathText(issue.path), message: issue.message }];
}

function pathText(path: readonly PropertyKey[]): string {
  return path
    .map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`))
    .join('')
    .replace(/^\./, '');
}

function refuse(problems: ManifestProblem[]): void {
  if (problems.length > 0) throw invalid(problems);
}

function invalid(problems: ManifestProblem[]): HatchError {
  const text = problems.map(({ path, message }) => (path === '' ? message : `${path}: ${message}`));
  return new HatchError('deploy.invalid', `Cannot accept ${manifestFileName}: ${text.join('; ')}`, {
    details: { problems },
  });
}
