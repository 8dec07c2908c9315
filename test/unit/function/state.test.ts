import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { functionSubject, parseFunctionSubject } from '../../../host/function/record.ts';
import type { FunctionState } from '../../../host/function/record.ts';
import { versionBefore, versionsMax, withAlias, withLatest } from '../../../host/function/state.ts';

test('each version made latest is kept until there are too many', () => {
  let state: FunctionState | undefined;
  const dropped: string[] = [];
  for (let number = 1; number <= versionsMax + 3; number++) {
    const next = withLatest(state, { name: 'a', version: String(number), atMs: number });
    state = number === 2 ? withAlias(next.state, 'live', '2') : next.state;
    dropped.push(...next.dropped);
  }
  // 2 has an alias, so the limit takes the next ones.
  assert.deepEqual(dropped, ['1', '3', '4']);
  assert.equal(state?.versions.length, versionsMax);
  assert.equal(state?.latest, String(versionsMax + 3));
});

test('whatever happens, latest and aliases stay callable and versions sorted', () => {
  const action = fc.oneof(
    fc.record({ kind: fc.constant('latest' as const), number: fc.integer({ min: 1, max: 60 }) }),
    fc.record({
      kind: fc.constant('alias' as const),
      alias: fc.constantFrom('live', 'next', 'old'),
      index: fc.nat(30),
    }),
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 100 }), (actions) => {
      let state = withLatest(undefined, { name: 'a', version: '1', atMs: 0 }).state;
      for (const one of actions) {
        if (one.kind === 'latest') {
          state = withLatest(state, { name: 'a', version: String(one.number), atMs: 1 }).state;
        } else {
          state = withAlias(state, one.alias, state.versions[one.index % state.versions.length]);
        }
        const numbers = state.versions.map(Number);
        assert.deepEqual(
          numbers,
          numbers.toSorted((a, b) => a - b),
        );
        assert.ok(numbers.length <= versionsMax);
        assert.equal(new Set(numbers).size, numbers.length);
        for (const version of [state.latest, ...Object.values(state.aliases)]) {
          assert.ok(state.versions.includes(version));
        }
        assert.equal(state.history.at(-1)?.version, state.latest);
      }
    }),
  );
});

test('rolling back goes to the next older version, and no further than the first', () => {
  const state = stateOf(['2', '9', '10'], '10');
  assert.equal(versionBefore(state), '9');
  assert.equal(versionBefore({ ...state, latest: '9' }), '2');
  assert.throws(() => versionBefore({ ...state, latest: '2' }), { code: 'version.not_found' });
});

test('an alias needs a proper name and a version there is', () => {
  const state = stateOf(['1', '2'], '2');
  assert.deepEqual(withAlias(state, 'live', '1').aliases, { live: '1' });
  assert.deepEqual(withAlias(withAlias(state, 'live', '1'), 'live', undefined).aliases, {});
  assert.throws(() => withAlias(state, 'live', '3'), { code: 'version.not_found' });
  for (const alias of ['1', 'latest', 'Live', 'a.b', '', '-a', '*', '>']) {
    assert.throws(() => withAlias(state, alias, '1'), { code: 'request.invalid' });
  }
});

test('subjects name a function and perhaps a version or alias', () => {
  assert.equal(functionSubject('hello'), 'hatch.fn.hello');
  assert.deepEqual(parseFunctionSubject(functionSubject('hello')), {
    name: 'hello',
    qualifier: undefined,
  });
  assert.deepEqual(parseFunctionSubject(functionSubject('hello', 'live')), {
    name: 'hello',
    qualifier: 'live',
  });
  assert.equal(parseFunctionSubject('hatch.fn.hello.12')?.qualifier, '12');
  const wrong = [
    'hatch.fn',
    'hatch.fn.A',
    'hatch.fn.a.b.c',
    'x.fn.a',
    'hatch.fn.a.',
    'hatch.fn.a.0',
  ];
  for (const subject of wrong) assert.equal(parseFunctionSubject(subject), undefined, subject);
});

function stateOf(versions: string[], latest: string): FunctionState {
  return { name: 'a', latest, versions, aliases: {}, history: [], revision: 1 };
}
