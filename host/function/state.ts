/** How a function's state changes: pure functions from one state to the next. */
import { HatchError } from '../base/errors.ts';
import { aliasPattern, latestQualifier } from './record.ts';
import type { FunctionState } from './record.ts';

/** Older ones go first; those with an alias stay. */
export const versionsMax = 20;
const historyMax = 50;
const aliasesMax = 50;
const nothing: Pick<FunctionState, 'aliases' | 'versions' | 'history' | 'revision'> = {
  aliases: {},
  versions: [],
  history: [],
  revision: 0,
};

/** Makes `version` the latest; `dropped` are versions that fell out of the limit. */
export function withLatest(
  state: FunctionState | undefined,
  options: { name: string; version: string; atMs: number },
): { state: FunctionState; dropped: string[] } {
  const { name, version, atMs } = options;
  const { aliases, versions, history, revision } = state ?? nothing;
  const all = versions.includes(version) ? versions : [...versions, version].sort(byNumber);
  const needed = new Set([version, ...Object.values(aliases)]);
  const surplus = Math.max(0, all.length - versionsMax);
  const dropped = all.filter((one) => !needed.has(one)).slice(0, surplus);
  return {
    dropped,
    state: {
      name,
      latest: version,
      aliases,
      versions: all.filter((one) => !dropped.includes(one)),
      history: [...history, { version, atMs }].slice(-historyMax),
      revision,
    },
  };
}

/** Points an alias at a version, or removes it when `version` is undefined. */
export function withAlias(
  state: FunctionState,
  alias: string,
  version: string | undefined,
): FunctionState {
  const { [alias]: _, ...others } = state.aliases;
  if (version === undefined) return { ...state, aliases: others };
  if (!aliasPattern.test(alias) || alias === latestQualifier) {
    throw new HatchError(
      'request.invalid',
      `Cannot use alias "${alias}": take 1 to 63 of a-z, 0-9 and -, starting with a letter, ` +
        `but not "${latestQualifier}"`,
    );
  }
  if (!state.versions.includes(version)) throw versionNotFound(state.name, version);
  if (Object.keys(others).length >= aliasesMax) {
    throw new HatchError(
      'request.invalid',
      `Cannot add alias "${alias}" to "${state.name}": it has ${aliasesMax}; remove one first`,
    );
  }
  return { ...state, aliases: { ...others, [alias]: version } };
}

/** The next older version than the latest, so that rolling back again goes further back. */
export function versionBefore(state: FunctionState): string {
  const earlier = state.versions.filter((version) => byNumber(version, state.latest) < 0).at(-1);
  if (earlier !== undefined) return earlier;
  throw new HatchError(
    'version.not_found',
    `Cannot roll back "${state.name}": there is no version before ${state.latest}`,
  );
}

export function versionNotFound(name: string, qualifier: string): HatchError {
  return new HatchError(
    'version.not_found',
    `Cannot find version or alias "${qualifier}" of function "${name}"`,
  );
}

export function functionNotFound(name: string): HatchError {
  return new HatchError('function.not_found', `Cannot find function "${name}": deploy it first`);
}

function byNumber(a: string, b: string): number {
  return Number(a) - Number(b);
}
