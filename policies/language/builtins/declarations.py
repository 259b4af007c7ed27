"""The names, argument types and result types of the built-in functions of Rego (OPA 1.19, `opa
capabilities`).

One line a function: `name: argument types -> result type`. Types are `any null boolean number string
nothing`, `array[T]`, `tuple[T,...]` (array of fixed length), `set[T]`, `object[K:V]`, and alternatives
with `|`; `any*` is any number of arguments. `signature` reads this notation; `registry` joins it with
the functions themselves.
"""

from __future__ import annotations

OPERATORS = {
    # The symbol of an infix operator, and the function that it is.
    "&": "and",
    ":=": "assign",
    "/": "div",
    "=": "eq",
    "==": "equal",
    ">": "gt",
    ">=": "gte",
    "<": "lt",
    "<=": "lte",
    "-": "minus",
    "*": "mul",
    "!=": "neq",
    "|": "or",
    "+": "plus",
    "%": "rem",
}

SIGNATURES = """\
and: set[any] set[any] -> set[any]
assign: any any -> boolean
div: number number -> number
eq: any any -> boolean
equal: any any -> boolean
gt: any any -> boolean
gte: any any -> boolean
internal.member_2: any any -> boolean
internal.member_3: any any any -> boolean
lt: any any -> boolean
lte: any any -> boolean
minus: number|set[any] number|set[any] -> number|set[any]
mul: number number -> number
neq: any any -> boolean
or: set[any] set[any] -> set[any]
plus: number number -> number
rem: number number -> number

abs: number -> number
ceil: number -> number
concat: string array[string]|set[string] -> string
contains: string string -> boolean
count: string|array[any]|object[any:any]|set[any] -> number
endswith: string string -> boolean
floor: number -> number
format_int: number number -> string
indexof: string string -> number
indexof_n: string string -> array[number]
intersection: set[set[any]] -> set[any]
is_array: any -> boolean
is_boolean: any -> boolean
is_null: any -> boolean
is_number: any -> boolean
is_object: any -> boolean
is_set: any -> boolean
is_string: any -> boolean
lower: string -> string
max: array[any]|set[any] -> any
min: array[any]|set[any] -> any
product: array[number]|set[number] -> number
replace: string string string -> string
round: number -> number
sort: array[any]|set[any] -> array[any]
split: string string -> array[string]
sprintf: string array[any] -> string
startswith: string string -> boolean
substring: string number number -> string
sum: array[number]|set[number] -> number
to_number: null|boolean|number|string -> number
trim: string string -> string
trim_left: string string -> string
trim_prefix: string string -> string
trim_right: string string -> string
trim_space: string -> string
trim_suffix: string string -> string
type_name: any -> string
union: set[set[any]] -> set[any]
upper: string -> string
walk: any -> tuple[array[any],any]

array.concat: array[any] array[any] -> array[any]
array.flatten: array[any] -> array[any]
array.reverse: array[any] -> array[any]
array.slice: array[any] number number -> array[any]

base64.decode: string -> string
base64.encode: string -> string
base64.is_valid: string -> boolean

base64url.decode: string -> string
base64url.encode: string -> string
base64url.encode_no_pad: string -> string

bits.and: number number -> number
bits.lsh: number number -> number
bits.negate: number -> number
bits.or: number number -> number
bits.rsh: number number -> number
bits.xor: number number -> number

crypto.hmac.equal: string string -> boolean
crypto.hmac.md5: string string -> string
crypto.hmac.sha1: string string -> string
crypto.hmac.sha256: string string -> string
crypto.hmac.sha512: string string -> string
crypto.md5: string -> string
crypto.parse_private_keys: string -> array[object[string:any]]
crypto.sha1: string -> string
crypto.sha256: string -> string
crypto.x509.parse_and_verify_certificates: string -> tuple[boolean,array[object[string:any]]]
crypto.x509.parse_and_verify_certificates_with_options: string object[string:any] \
    -> tuple[boolean,array[object[string:any]]]
crypto.x509.parse_certificate_request: string -> object[string:any]
crypto.x509.parse_certificates: string -> array[object[string:any]]
crypto.x509.parse_keypair: string string -> object[string:any]
crypto.x509.parse_rsa_private_key: string -> object[string:any]

glob.match: string null|array[string] string -> boolean
glob.quote_meta: string -> string

graph.reachable: object[any:array[any]|set[any]] array[any]|set[any] -> set[any]
graph.reachable_paths: object[any:array[any]|set[any]] array[any]|set[any] -> set[array[any]]

graphql.is_valid: string|object[any:any] string|object[any:any] -> boolean
graphql.parse: string|object[any:any] string|object[any:any] -> tuple[object[any:any],object[any:any]]
graphql.parse_and_verify: string|object[any:any] string|object[any:any] \
    -> tuple[boolean,object[any:any],object[any:any]]
graphql.parse_query: string -> object[any:any]
graphql.parse_schema: string -> object[any:any]
graphql.schema_is_valid: string|object[any:any] -> boolean

hex.decode: string -> string
hex.encode: string -> string

http.send: object[string:any] -> object[any:any]

io.jwt.decode: string -> tuple[object[any:any],object[any:any],string]
io.jwt.decode_verify: string object[string:any] -> tuple[boolean,object[any:any],object[any:any]]
io.jwt.encode_sign: object[string:any] object[string:any] object[string:any] -> string
io.jwt.encode_sign_raw: string string string -> string
io.jwt.verify_eddsa: string string -> boolean
io.jwt.verify_es256: string string -> boolean
io.jwt.verify_es384: string string -> boolean
io.jwt.verify_es512: string string -> boolean
io.jwt.verify_hs256: string string -> boolean
io.jwt.verify_hs384: string string -> boolean
io.jwt.verify_hs512: string string -> boolean
io.jwt.verify_ps256: string string -> boolean
io.jwt.verify_ps384: string string -> boolean
io.jwt.verify_ps512: string string -> boolean
io.jwt.verify_rs256: string string -> boolean
io.jwt.verify_rs384: string string -> boolean
io.jwt.verify_rs512: string string -> boolean

json.filter: object[any:any] array[string|array[any]]|set[string|array[any]] -> object[any:any]
json.is_valid: string -> boolean
json.marshal: any -> string
json.marshal_with_options: any object[string:any] -> string
json.match_schema: string|object[any:any] string|object[any:any] -> tuple[boolean,array[object[string:any]]]
json.patch: any array[object[any:any]] -> any
json.remove: object[any:any] array[string|array[any]]|set[string|array[any]] -> object[any:any]
json.unmarshal: string -> any
json.verify_schema: string|object[any:any] -> tuple[boolean,null|string]

net.cidr_contains: string string -> boolean
net.cidr_contains_matches: \
    string|array[string|array[any]]|object[string:string|array[any]]|set[string|array[any]] \
    string|array[string|array[any]]|object[string:string|array[any]]|set[string|array[any]] \
    -> set[tuple[any,any]]
net.cidr_expand: string -> set[string]
net.cidr_intersects: string string -> boolean
net.cidr_is_valid: string -> boolean
net.cidr_merge: array[string]|set[string] -> set[string]
net.lookup_ip_addr: string -> set[string]

numbers.range: number number -> array[number]
numbers.range_step: number number number -> array[number]

object.filter: object[any:any] array[any]|object[any:any]|set[any] -> object[any:any]
object.get: object[any:any] any any -> any
object.keys: object[any:any] -> set[any]
object.remove: object[any:any] array[any]|object[any:any]|set[any] -> object[any:any]
object.subset: array[any]|object[any:any]|set[any] array[any]|object[any:any]|set[any] -> boolean
object.union: object[any:any] object[any:any] -> object[any:any]
object.union_n: array[object[any:any]] -> object[any:any]

opa.runtime: -> object[string:any]

providers.aws.sign_req: object[string:any] object[string:any] number -> object[any:any]

rand.intn: string number -> number

regex.find_all_string_submatch_n: string string number -> array[array[string]]
regex.find_n: string string number -> array[string]
regex.globs_match: string string -> boolean
regex.is_valid: string -> boolean
regex.match: string string -> boolean
regex.replace: string string string -> string
regex.split: string string -> array[string]
regex.template_match: string string string string -> boolean

rego.metadata.chain: -> array[any]
rego.metadata.rule: -> any
rego.parse_module: string string -> object[string:any]

semver.compare: string string -> number
semver.is_valid: any -> boolean

strings.any_prefix_match: string|array[string]|set[string] string|array[string]|set[string] -> boolean
strings.any_suffix_match: string|array[string]|set[string] string|array[string]|set[string] -> boolean
strings.count: string string -> number
strings.render_template: string object[string:any] -> string
strings.replace_n: object[string:string] string -> string
strings.reverse: string -> string
strings.split_n: string string number -> array[string]

time.add_date: number number number number -> number
time.clock: number|tuple[number,string] -> tuple[number,number,number]
time.date: number|tuple[number,string] -> tuple[number,number,number]
time.diff: number|tuple[number,string] number|tuple[number,string] \
    -> tuple[number,number,number,number,number,number]
time.format: number|tuple[number,string]|tuple[number,string,string] -> string
time.now_ns: -> number
time.parse_duration_ns: string -> number
time.parse_ns: string string -> number
time.parse_rfc3339_ns: string -> number
time.weekday: number|tuple[number,string] -> string

units.parse: string -> number
units.parse_bytes: string -> number

uri.is_valid: string -> boolean
uri.parse: string -> object[string:string]

urlquery.decode: string -> string
urlquery.decode_object: string -> object[string:array[string]]
urlquery.encode: string -> string
urlquery.encode_object: object[string:string|array[string]|set[string]] -> string

uuid.parse: string -> object[string:any]
uuid.rfc4122: string -> string

yaml.is_valid: string -> boolean
yaml.marshal: any -> string
yaml.unmarshal: string -> any

internal.print: array[set[any]] -> nothing
internal.template_string: array[any] -> string
internal.test_case: array[any] -> nothing
print: any* -> nothing
trace: string -> boolean

all: array[any]|set[any] -> boolean
any: array[any]|set[any] -> boolean
cast_array: any -> array[any]
cast_boolean: any -> boolean
cast_null: any -> null
cast_object: any -> object[any:any]
cast_set: any -> set[any]
cast_string: any -> string
net.cidr_overlap: string string -> boolean
re_match: string string -> boolean
set_diff: set[any] set[any] -> set[any]
"""

DEPRECATED = frozenset(
    {
        "all",
        "any",
        "cast_array",
        "cast_boolean",
        "cast_null",
        "cast_object",
        "cast_set",
        "cast_string",
        "net.cidr_overlap",
        "re_match",
        "set_diff",
    }
)

NONDETERMINISTIC = frozenset(
    {
        "http.send",
        "io.jwt.decode_verify",
        "io.jwt.encode_sign",
        "io.jwt.encode_sign_raw",
        "net.lookup_ip_addr",
        "opa.runtime",
        "rand.intn",
        "time.now_ns",
        "uuid.rfc4122",
    }
)

RELATIONS = frozenset({"walk"})
"""Functions with many results for one list of arguments."""
