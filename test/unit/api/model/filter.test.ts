// The filter language: what parses, what matches, and that nothing but invalid-argument is ever thrown.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { codeOf } from '../../../../src/api/model/errors.ts';
import {
  compileFilters,
  filterCountMax,
  formatFilter,
  mapEntry,
  parseFilter,
  patternLengthMax,
  type Selector,
} from '../../../../src/api/model/filter.ts';
import { type FilterOperator, filterLengthMax } from '../../../../src/api/model/filter-syntax.ts';

const labels = new Map([
  ['foo', 'bar'],
  ['containerd.io/x', 'y'],
  ['a.b', 'dotted'],
]);

function lookup(path: readonly string[]): string | undefined {
  if (path[0] === 'id') return 'web-1';
  if (path[0] === 'labels') return mapEntry(labels, path);
  return undefined;
}

function matches(...filters: string[]): boolean {
  return compileFilters(filters).matches(lookup);
}

test('filters that match, and filters that do not', () => {
  const yes = [
    ['id'],
    ['id==web-1'],
    ['  id  ==  web-1'],
    ['id=="web-1"'],
    ['id=="web\\x2d1"'],
    ['id=="web\\0551"'],
    ['id=="web\\u002d1"'],
    ['"id"==web-1'],
    ['id==nope', 'id==web-1'],
    ['id==web-1,labels.foo==bar'],
    ['id==web-1, labels.foo==bar'],
    ['id~=^web'],
    ['id~=/b-[0-9]$/'],
    ['id~=|b.1|'],
    ['id~="b.1"'],
    ['missing!=x'],
    ['missing~=/^$/'],
    ['labels."containerd.io/x"==y'],
    ['labels.a.b==dotted'],
    ['labels."a.b"==dotted'],
    ['labels. foo==bar'],
    [''],
    ['id==nope', ''],
    [],
  ];
  for (const filters of yes) assert.equal(matches(...filters), true, JSON.stringify(filters));
  const no = [
    ['missing'],
    ['id==web'],
    ['id!=web-1'],
    ['missing==""'],
    ["id=='web-1'"],
    ['id==web-1,missing'],
    ['id~=['],
    ['id~="(?=x)"'],
    ['missing~=x'],
    ['labels.foo.bar==bar'],
  ];
  for (const filters of no) assert.equal(matches(...filters), false, JSON.stringify(filters));
});

test('a bare value runs to the next comma or white space', () => {
  for (const value of ['a=b', 'a!b"c', "'x'", 'a/b:c|d', '\\', '*', 'é', '(a)']) {
    assert.deepEqual(parseFilter(`id==${value}`), [{ path: ['id'], operator: '==', value }]);
  }
});

test('a syntax error names the input with the offending character marked', () => {
  const cases: [string, string][] = [
    ['id==web ', '[id==web >| |< ]'],
    ['id==web , x', '[id==web >| |< , x]'],
    ['id ,x', '[id  >|,|< x]'],
    ['id ', '[id ]'],
    ['topic==/x', '[topic== >|/|< x]'],
    ['id==.a', '[id== >|.|< a]'],
    ['id===a', '[id== >|=|< a]'],
    ['id=a', '[id >|=|< a]'],
    ['id~=/\\d/', '[id~=/ >|\\|< d/]'],
    ['id=="\\400"', '[id==" >|\\|< 400"]'],
    ['id=="a', '[id== >|"|< a]'],
    ['id=="a\nb"', '[id=="a >|\n|< b"]'],
    ['id=="a"b', '[id=="a" >|b|< ]'],
    ['id,', '[id,]'],
    [',id', '[ >|,|< id]'],
    ['id..x', '[id. >|.|< x]'],
    ['é==x', '[ >|é|< ==x]'],
    ['id!=/x/', '[id!= >|/|< x/]'],
    ['id=="\0"', '[id==" >|\0|< "]'],
    ['*', '[ >|*|< ]'],
  ];
  for (const [input, marked] of cases) {
    assert.throws(
      () => compileFilters([input]),
      (error: Error) => {
        assert.equal(codeOf(error), 'invalid-argument');
        assert.ok(error.message.startsWith(`filters: parse error: ${marked}: `), error.message);
        return true;
      },
    );
  }
});

test('quoted escapes name bytes and characters', () => {
  const value = (quoted: string) => parseFilter(`a==${quoted}`)[0]!.value;
  assert.equal(value('"\\xc3\\xa9"'), 'é');
  assert.equal(value('"\\U0001F600\\a\\t\\\\\\""'), '😀\x07\t\\"');
  assert.equal(parseFilter('a~=/x\\/y/')[0]!.value, 'x/y');
  assert.equal(parseFilter('a~=|x\\|y|')[0]!.value, 'x|y');
});

test('limits are refused, not suffered', () => {
  const refused = (filters: string[]) =>
    assert.throws(() => compileFilters(filters), { code: 'invalid-argument' });
  refused(new Array(filterCountMax + 1).fill('id'));
  refused([`id==${'a'.repeat(filterLengthMax)}`]);
  refused([`id~=${'a'.repeat(patternLengthMax + 1)}`]);
});

test('a pattern that explodes elsewhere answers in linear time', () => {
  const long = `${'a'.repeat(50_000)}!`;
  const filter = compileFilters(['id~=/(a+)+$/']);
  assert.equal(
    filter.matches(() => long),
    false,
  );
});

test('a filter that pins a field tells its values', () => {
  assert.deepEqual(compileFilters(['id==a', 'id==b,labels.x', 'id==a']).exact('id'), ['a', 'b']);
  assert.equal(compileFilters(['id==a', 'labels.x']).exact('id'), undefined);
  assert.equal(compileFilters(['id!=a']).exact('id'), undefined);
  assert.equal(compileFilters([]).exact('id'), undefined);
});

test('property: selectors survive writing and parsing', () => {
  const text = fc.string({ unit: 'binary' }).map((s) => s.replaceAll('\0', '0').toWellFormed());
  const field = fc.oneof(fc.stringMatching(/^[A-Za-z0-9_]{1,8}$/), text);
  const operator = fc.constantFrom<FilterOperator | undefined>('==', '!=', '~=', undefined);
  const selector = fc
    .record({ path: fc.array(field, { minLength: 1, maxLength: 4 }), operator, value: text })
    .map(({ path, operator, value }) => ({ path, operator, value: operator === undefined ? '' : value }));
  fc.assert(
    fc.property(fc.array(selector, { minLength: 1, maxLength: 5 }), (selectors) => {
      assert.deepEqual(parseFilter(formatFilter(selectors)), selectors);
    }),
  );
});

test('property: any input parses or is an invalid argument', () => {
  const fragment = fc.constantFrom(
    'id',
    'labels',
    '.',
    ',',
    '==',
    '!=',
    '~=',
    '"',
    '/',
    '|',
    '\\',
    '\\x',
    ' ',
    'é',
  );
  const input = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc
      .array(fc.oneof(fragment, fc.string({ maxLength: 3 })), { maxLength: 12 })
      .map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(input, (filter) => {
      try {
        compileFilters([filter]).matches(lookup);
      } catch (error) {
        assert.equal(codeOf(error), 'invalid-argument');
      }
    }),
    { numRuns: 2000 },
  );
});

test('property: a filter matches as its parts say, read plainly', () => {
  const field = fc.constantFrom('a', 'b', 'c.d', 'x y');
  const value = fc.constantFrom('', '1', 'two', 'a,b', '"q"');
  const selector = fc.record({
    path: fc.array(field, { minLength: 1, maxLength: 2 }),
    operator: fc.constantFrom('==' as const, '!=' as const, undefined),
    value,
  });
  const record = fc.dictionary(fc.constantFrom('a', 'b', 'c.d', 'x y', 'a/b', 'b/c.d'), value);
  const naive = ({ path, operator, value: wanted }: Selector, given: Record<string, string>): boolean => {
    const found = Object.hasOwn(given, path.join('/')) ? given[path.join('/')] : undefined;
    if (operator === undefined) return found !== undefined;
    return operator === '==' ? found === wanted : found !== wanted;
  };
  const filters = fc.array(fc.array(selector, { minLength: 1, maxLength: 3 }), {
    minLength: 1,
    maxLength: 3,
  });
  fc.assert(
    fc.property(filters, record, (given, fields) => {
      const compiled = compileFilters(given.map((selectors) => formatFilter(selectors)));
      const matches = compiled.matches((path) =>
        Object.hasOwn(fields, path.join('/')) ? fields[path.join('/')] : undefined,
      );
      assert.equal(
        matches,
        given.some((selectors) => selectors.every((one) => naive(one, fields))),
      );
    }),
  );
});
