"""The operations, conditions and loops that tinycode programs are made of.

A table has two lines or more for an operation: its name, the domains of its constants and its expression;
then its wordings. `{x}` is the operand, `{0}` and `{1}` are the constants. In the wordings of a loop,
`{p}` is the phrase of its body.
"""

from wmtp.data.tinycode.operations import Operation, Slot, Type

SLOTS = {
    "NUMBER": Slot(tuple(range(1, 10))),
    "FACTOR": Slot(tuple(range(2, 10))),
    "LIMIT": Slot(tuple(range(1, 10)), boundary=True),
    "COUNT": Slot((2, 3, 4), boundary=True),
    "TIMES": Slot((2, 3, 4), boundary=True),
    "LENGTH": Slot((2, 3, 4, 5), boundary=True),
    "WIDTH": Slot((4, 5, 6, 7, 8), boundary=True),
    "START": Slot((1,), boundary=True),
    "LETTER": Slot(tuple("abdeilmnorst")),
    "WORD": Slot(("ab", "cat", "dog", "end", "hi", "key", "new", "old", "so", "up")),
    "MARK": Slot(("*", "-", "_", "+", "/", "#")),
}


def _parse(source: Type, target: Type, table: str) -> tuple[Operation, ...]:
    operations = []
    for entry in table.strip().replace("\n    ", "\t").splitlines():
        signature, *wordings = entry.split("\t")
        head, expression = signature.split(": ", 1)
        name, *slots = head.split()
        phrases = tuple(" ".join(wordings).split(" | "))
        operations.append(
            Operation(name, source, target, expression, tuple(SLOTS[s] for s in slots), phrases)
        )
    return tuple(operations)


LIST = _parse(
    "list",
    "list",
    """
add_each NUMBER: [v + {0} for v in {x}]
    add {0} to every number | increase each number by {0} | make all numbers larger by {0}
subtract_each NUMBER: [v - {0} for v in {x}]
    subtract {0} from every number | decrease each number by {0} | make all numbers smaller by {0}
multiply_each FACTOR: [v * {0} for v in {x}]
    multiply every number by {0} | scale each number by {0} | make all numbers {0} times as large
modulo_each FACTOR: [v % {0} for v in {x}]
    take every number modulo {0} | reduce each number modulo {0} | take the remainder of all numbers mod {0}
square_each: [v ** 2 for v in {x}]
    square every number | replace each number by its square | raise all numbers to the power 2
negate_each: [-v for v in {x}]
    negate every number | flip the sign of each number | change the sign of all numbers
absolute_each: [abs(v) for v in {x}]
    take the absolute value of every number | replace each number by its absolute value
    | remove the sign of all numbers
keep_greater LIMIT: [v for v in {x} if v > {0}]
    keep the numbers greater than {0} | keep only numbers above {0} | drop numbers that are at most {0}
keep_less LIMIT: [v for v in {x} if v < {0}]
    keep the numbers less than {0} | keep only numbers below {0} | drop numbers that are at least {0}
keep_even: [v for v in {x} if v % 2 == 0]
    keep the even numbers | keep only even numbers | drop the odd numbers
keep_odd: [v for v in {x} if v % 2 == 1]
    keep the odd numbers | keep only odd numbers | drop the even numbers
unique: list(dict.fromkeys({x}))
    keep only the first copy of each number | drop later copies of each number
    | remove numbers that appeared before
reverse_list: {x}[::-1]
    reverse the list | turn the list around | put the list in reverse order
sort: sorted({x})
    sort the numbers | sort the list in ascending order | order the numbers from low to high
sort_descending: sorted({x}, reverse=True)
    sort the numbers downwards | sort the list in descending order | order the numbers from high to low
take_first COUNT: {x}[:{0}]
    keep the first {0} numbers | take only the first {0} numbers | cut the list after {0} numbers
take_last COUNT: {x}[-{0}:]
    keep the last {0} numbers | take only the last {0} numbers | cut the list down to its last {0} numbers
drop_first COUNT: {x}[{0}:]
    drop the first {0} numbers | skip the first {0} numbers | remove {0} numbers from the start
drop_last COUNT: {x}[:-{0}]
    drop the last {0} numbers | leave out the last {0} numbers | remove {0} numbers from the end
append_number NUMBER: {x} + [{0}]
    append {0} to the list | put {0} at the end of the list | add {0} as the last number
prepend_number NUMBER: [{0}] + {x}
    prepend {0} to the list | put {0} at the start of the list | add {0} as the first number
""",
)

LIST_TO_INT = _parse(
    "list",
    "int",
    """
sum: sum({x})
    sum the numbers | add up the list | take the sum of the list
list_length: len({x})
    count the numbers | take the length of the list | find how long the list is
largest: max({x}, default=0)
    take the largest number or 0 if none | find the maximum or 0 if none | pick the biggest number or 0 if none
smallest: min({x}, default=0)
    take the smallest number or 0 if none | find the minimum or 0 if none | pick the lowest number or 0 if none
""",
)

INT = _parse(
    "int",
    "int",
    """
add NUMBER: {x} + {0}
    add {0} | increase it by {0} | make it larger by {0}
subtract NUMBER: {x} - {0}
    subtract {0} | decrease it by {0} | make it smaller by {0}
subtract_from NUMBER: {0} - {x}
    subtract it from {0} | take it away from {0} | calculate {0} minus it
multiply FACTOR: {x} * {0}
    multiply by {0} | multiply it by {0} | scale it by {0}
floor_divide FACTOR: {x} // {0}
    divide by {0} rounding down | divide it by {0} and round down | floor divide it by {0}
modulo FACTOR: {x} % {0}
    take it modulo {0} | reduce it modulo {0} | take the remainder mod {0}
square: {x} ** 2
    square it | raise it to the power 2 | take its second power
cube: {x} ** 3
    cube it | raise it to the power 3 | take its third power
negate: -{x}
    negate it | flip its sign | change its sign
absolute: abs({x})
    take its absolute value | replace it by its absolute value | remove its sign
at_most LIMIT: min({x}, {0})
    cap it at {0} | limit it to at most {0} | take the smaller of it and {0}
at_least LIMIT: max({x}, {0})
    make it at least {0} | raise it to at least {0} | take the larger of it and {0}
""",
)

INT_AND_Y = _parse(
    "int",
    "int",
    """
add_y: {x} + y
    add y | increase it by y | make it larger by y
subtract_y: {x} - y
    subtract y | decrease it by y | make it smaller by y
multiply_y: {x} * y
    multiply by y | multiply it by y | scale it by y
at_most_y: min({x}, y)
    cap it at y | limit it to at most y | take the smaller of it and y
at_least_y: max({x}, y)
    make it at least y | raise it to at least y | take the larger of it and y
""",
)

STR = _parse(
    "str",
    "str",
    """
upper: {x}.upper()
    make it uppercase | convert it to uppercase | put it in capital letters
lower: {x}.lower()
    make it lowercase | convert it to lowercase | put it in small letters
title: {x}.title()
    make it title case | convert it to title case | put it in title case
swapcase: {x}.swapcase()
    swap the case of each letter | flip the case of each letter | invert upper and lower case
reverse_string: {x}[::-1]
    reverse the string | turn the string around | put the string in reverse order
replace LETTER LETTER: {x}.replace({0}, {1})
    replace every {0} by {1} | change each {0} to {1} | turn all {0} into {1}
remove LETTER: {x}.replace({0}, '')
    remove every {0} | delete each {0} | take out all {0}
remove_vowels: ''.join(c for c in {x} if c not in 'aeiou')
    remove every lowercase vowel | delete each lowercase vowel | take out all lowercase vowels
remove_digits: ''.join(c for c in {x} if not c.isdigit())
    remove every digit | delete each digit | take out all digits
sort_characters: ''.join(sorted({x}))
    sort the characters | put the characters in sorted order | arrange the characters in ascending order
reverse_words: ' '.join({x}.split()[::-1])
    reverse the order of the words | put the words in reverse order | turn the word order around
append WORD: {x} + {0}
    append {0} to the string | put {0} at the end of the string | add {0} at the end
prepend WORD: {0} + {x}
    prepend {0} to the string | put {0} at the start of the string | add {0} at the start
surround MARK: {0} + {x} + {0}
    put {0} on both sides | surround it with {0} | add {0} at both ends
separate MARK: {0}.join({x})
    put {0} between the characters | separate the characters with {0} | join the characters with {0}
repeat_string TIMES: {x} * {0}
    repeat the string {0} times | write the string {0} times in a row | make {0} copies of the string
first_characters COUNT: {x}[:{0}]
    keep the first {0} characters | take only the first {0} characters | cut the string after {0} characters
last_characters COUNT: {x}[-{0}:]
    keep the last {0} characters | take only the last {0} characters
    | cut the string down to its last {0} characters
skip_first COUNT: {x}[{0}:]
    drop the first {0} characters | skip the first {0} characters | remove {0} characters from the start
skip_last COUNT: {x}[:-{0}]
    drop the last {0} characters | leave out the last {0} characters | remove {0} characters from the end
""",
)

STR_TO_INT = _parse(
    "str",
    "int",
    """
string_length: len({x})
    count the characters | take the length of the string | find how long the string is
count_letter LETTER: {x}.count({0})
    count how often {0} occurs | count every {0} | find how many times {0} appears
count_words: len({x}.split())
    count the words | take the number of words | find how many words there are
""",
)

STR_TO_LIST = _parse(
    "str",
    "list",
    """
word_lengths: [len(w) for w in {x}.split()]
    list the lengths of the words | list how long each word is | make a list of the word lengths
digits: [int(c) for c in {x} if c.isdigit()]
    list the digits as numbers | collect each digit as a number | make a list of the digits as numbers
""",
)

INT_CONDITIONS = _parse(
    "int",
    "bool",
    """
is_greater LIMIT: {x} > {0}
    it is greater than {0} | it is above {0} | it exceeds {0}
is_less LIMIT: {x} < {0}
    it is less than {0} | it is below {0} | it is smaller than {0}
is_even: {x} % 2 == 0
    it is even | it is an even number | 2 divides it
is_odd: {x} % 2 == 1
    it is odd | it is an odd number | 2 does not divide it
""",
)

LIST_CONDITIONS = _parse(
    "list",
    "bool",
    """
list_longer LENGTH: len({x}) > {0}
    it has more than {0} numbers | it is longer than {0} | its length exceeds {0}
list_shorter LENGTH: len({x}) < {0}
    it has fewer than {0} numbers | it is shorter than {0} | its length is below {0}
has_number NUMBER: {0} in {x}
    it contains {0} | {0} is in it | it has {0} in it
lacks_number NUMBER: {0} not in {x}
    it does not contain {0} | {0} is not in it | it has no {0} in it
""",
)

STR_CONDITIONS = _parse(
    "str",
    "bool",
    """
string_longer WIDTH: len({x}) > {0}
    it has more than {0} characters | it is longer than {0} | its length exceeds {0}
string_shorter WIDTH: len({x}) < {0}
    it has fewer than {0} characters | it is shorter than {0} | its length is below {0}
has_letter LETTER: {0} in {x}
    it contains {0} | {0} is in it | it has {0} in it
lacks_letter LETTER: {0} not in {x}
    it does not contain {0} | {0} is not in it | it has no {0} in it
""",
)

REPEAT, UP_TO = _parse(
    "int",
    "iterable",
    """
repeat TIMES: range({0})
    do this {0} times: {p} | repeat this {0} times: {p} | {0} times in a row, {p}
up_to START: range({0}, {x} + 1)
    for each number from {0} to x in a loop, {p} and add up the results
    | loop from {0} to x: take each number, {p} and total the results
    | in a loop from {0} to x, take each number, {p} and sum the results
""",
)

(EACH,) = _parse(
    "list",
    "iterable",
    """
each: {x}
    for each number in a loop, {p} and add up the results
    | loop over the list: take each number, {p} and total the results
    | in a loop over the list, take each number, {p} and sum the results
""",
)

(KEEP,) = _parse("int", "int", "keep: {x}\n    leave it alone")

FROM_TYPE: dict[Type, tuple[Operation, ...]] = {
    "int": INT,
    "list": LIST + LIST_TO_INT,
    "str": STR + STR_TO_INT + STR_TO_LIST,
}
CONDITIONS: dict[Type, tuple[Operation, ...]] = {
    "int": INT_CONDITIONS,
    "list": LIST_CONDITIONS,
    "str": STR_CONDITIONS,
}
GROUPS = (LIST, LIST_TO_INT, STR, STR_TO_INT, STR_TO_LIST, *CONDITIONS.values())
"""Operations that could be mistaken for each other, besides those on integers."""
