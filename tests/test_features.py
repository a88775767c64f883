"Whatever a record or a frame holds: an error that names record and field, or a stated default; the same arrays before and after saving"
import json,subprocess,sys

import numpy as np,pandas as pd,pytest
from hypothesis import given,settings,strategies as st

from collab_ext.features import Features,Labels,RecordError

pytest.importorskip('pydantic')

def encode(texts): return np.array([[len(o), o.count('e')] for o in texts], dtype=np.float32).reshape(len(texts), 2)

shelf = pd.DataFrame(dict(work=range(6), words=[10,None,3000,5,7,2e6], year=[1999,2001,2003,1980,None,2020],
    fandom=['a','b','a',None,'b','c'], tags=[['x','y'],['x'],[],None,'y|z','x|z'], summary=['the sea','a ship at sea','','ship',None,'sea']))
plain = Features(numbers=['words','year'], categories='fandom', tags='tags', text='summary', item='work').fit(shelf)
encoded = Features(numbers=['words','year'], categories='fandom', tags='tags', text='summary', item='work', encoder=encode).fit(shelf)

labels = st.one_of(st.text(max_size=8), st.integers(), st.floats(), st.booleans(), st.none(), st.sampled_from(['x','y','\ud800','a'*2000,'\x00','İ','ﬀ']))
anything = st.recursive(labels, lambda o: st.one_of(st.lists(o, max_size=3), st.dictionaries(st.text(max_size=3), o, max_size=2)), max_leaves=5)
keys = st.sampled_from(['words','year','fandom','tags','summary','work','colour',''])
records = st.lists(st.one_of(st.dictionaries(keys, anything, max_size=7), anything), max_size=4)

def check_finite(blocks, n):
    assert len(blocks)==n
    X = blocks.matrix()
    assert X.shape[0]==n and np.isfinite(X.data).all()
    for k,(flat,start) in blocks.codes.items():
        assert len(start)==n+1 and start[-1]==len(flat)
        assert not len(flat) or (flat.min()>=0 and flat.max()<blocks.sizes[k])

@pytest.mark.parametrize('features', [plain,encoded], ids=['words','encoder'])
@settings(max_examples=60)
@given(records=records)
def test_records(features, records):
    "A list of anything gives one row for each record, or an error that names the first bad one"
    try: df = features.frame(records)
    except RecordError as e:
        assert 0<=e.index<len(records) and f'record {e.index}' in str(e)
        assert e.field is None or (e.field in features.kinds or e.field=='work') and repr(e.field) in str(e)
        assert len(str(e))<400
        return
    assert [*df.columns]==['work','words','year','fandom','tags','summary']
    check_finite(features.transform(df), len(records))

@settings(max_examples=40)
@given(rows=st.lists(st.dictionaries(keys, anything, max_size=7), min_size=1, max_size=5))
def test_frames(rows):
    "A frame with anything in its cells is transformed, and can be fitted"
    df = pd.DataFrame({k:pd.Series([r.get(k) for r in rows], dtype=object) for k in ('words','year','fandom','tags','summary')})
    for features in (plain,encoded): check_finite(features.transform(df), len(df))
    again = Features(numbers=['words','year'], categories='fandom', tags='tags', text='summary', min_count=1).fit(df)
    check_finite(again.transform(df), len(df))
    assert Features.from_json(again.to_json()).to_json()==again.to_json()

@pytest.mark.parametrize('record,field,what', [(dict(words='many'),'words','a finite number'), (dict(words=float('inf')),'words','a finite number'),
    (dict(words=10**400),'words','a finite number'), (dict(fandom=['a']),'fandom','a label'), (dict(tags={'x':1}),'tags','a list of at most'),
    (dict(tags=['x',['y']]),'tags','a list of at most'), (dict(summary=3),'summary','text'), (dict(work=[]),'work','a label'), (7,None,'a dict'),
    (dict(fandom='a'*1001),'fandom','a label'), (dict(tags=['x']*10_001),'tags','at most 10,000'), (dict(summary='e'*1_000_001),'summary','text')])
def test_bad_records(record, field, what):
    with pytest.raises(RecordError) as e: plain.frame([{}, record])
    assert (e.value.index,e.value.field)==(1,field) and what in str(e.value) and len(str(e.value))<400

def test_every_error_is_listed():
    with pytest.raises(RecordError, match='and 3 more') as e: plain.frame([dict(words='x', year='y'), {}, dict(tags={'x':1}, fandom=[1])])
    assert [(o['index'],o['field']) for o in e.value.errors]==[(0,'words'),(0,'year'),(2,'fandom'),(2,'tags')]

def test_records_are_read_like_the_frame():
    "A frame and its rows as JSON give the same arrays"
    rows = json.loads(shelf.to_json(orient='records'))
    for features in (plain,encoded):
        a,b = features.transform(shelf),features.transform(features.frame(rows))
        assert np.array_equal(a.matrix().toarray(), b.matrix().toarray())

def test_types_of_labels():
    "True, 1 and 1.0 as JSON has them: a label is what it says, and whole floats are whole numbers"
    features = Features(categories='c', min_count=1).fit(pd.DataFrame(dict(c=['true','1','2.5'])))
    codes = features.transform(features.frame([dict(c=True), dict(c=1), dict(c=1.), dict(c=2.5), dict(c='1'), dict(c=0)])).codes['c'][0]
    one,half,true = (features.labels['c'].o2i[o] for o in ('1','2.5','true'))
    assert [*codes]==[true,one,one,half,one,0]

def test_instances_of_the_model_pass():
    model = plain.record_model()
    assert plain.frame([model.model_validate(dict(words=3)), dict(words=4)]).words.tolist()==[3,4]
    assert set(model.model_json_schema()['properties'])=={'work','words','year','fandom','tags','summary'}

@pytest.mark.parametrize('name', ['class','_x','copy','model_dump','word count','','1','ß','field_0'])
def test_any_name_of_a_column(name):
    features = Features(numbers=[name]).fit(pd.DataFrame({name:[1,2,3]}))
    assert features.frame([{name:2}])[name].tolist()==[2]

def test_unknown_and_rare_labels_share_the_bucket():
    features = Features(tags='t').fit(pd.DataFrame(dict(t=['a|b','a','c'])))
    flat,start = features.transform(pd.DataFrame(dict(t=['a','b','never','']))).codes['t']
    assert [*flat]==[1,0,0] and [*start]==[0,1,2,3,3]

def test_hashing_begins_beyond_the_size():
    many = [f't{i:03}' for i in range(100)]
    exact,hashed = Labels.of(many, 1, 100),Labels.of(many, 1, 99)
    assert len(exact)==101 and exact.code('new')==0
    assert len(hashed)==1+99+12 and hashed.code('new')>99
    assert {hashed.code(o) for o in many[:99]}==set(range(1,100))

def test_the_order_of_rows_does_not_matter():
    a,b = (Features(categories='fandom', tags='tags').fit(o).to_json() for o in (shelf,shelf[::-1]))
    assert a==b

def test_popularity_is_left_out():
    df = shelf.assign(kudos=range(6))
    with pytest.warns(UserWarning, match='kudos: left out'): features = Features(numbers=['words','kudos'])
    assert features.numbers==['words']
    assert Features(numbers=['words','kudos'], popularity=True).numbers==['words','kudos']
    assert 'kudos' not in Features.of(df, item='work').kinds
    assert 'counts users' in Features.of(df, item='work').describe().note['kudos']

def test_inferred_kinds():
    df = shelf.assign(fandom=list('ababab'), authorId=[1,1,2,2,3,3], done=[True,False]*3, price=['1','2','3.5','4','5','6'])
    df = df.assign(same=1, when=pd.Timestamp('2020-02-01'))
    df.loc[0,'when'] = pd.Timestamp('1999-01-01')
    kinds = Features.of(df, item='work').describe().kind.to_dict()
    assert kinds==dict(words='numbers', year='numbers', fandom='categories', tags='tags', summary='text', authorId='categories', done='categories',
        price='numbers', same='left out', when='numbers')

def test_huge_numbers_stay_finite():
    df = plain.frame([dict(words=1e308), dict(words=-1e308), dict(words=0)])
    assert np.abs(plain.transform(df).dense).max()<=10

@pytest.mark.parametrize('text', ['', '3', '[]', '{"format":2}', '{"format":1,"numbers":3}', '{"format":1,"item":null,"sep":"|","numbers":["a"],"scales":{}}'])
def test_broken_definitions(text):
    with pytest.raises(ValueError): Features.from_json(text)

def test_own_encoder_is_asked_for():
    with pytest.raises(ValueError, match='pass it as `encoder`'): Features.from_json(encoded.to_json())
    again = Features.from_json(encoded.to_json(), encoder=encode)
    assert np.array_equal(again.transform(shelf).matrix().toarray(), encoded.transform(shelf).matrix().toarray())
    wrong = Features.from_json(encoded.to_json(), encoder=lambda o: np.zeros((len(o), 3)))
    with pytest.raises(ValueError, match='shape'): wrong.transform(shelf)

def test_memory_of_labels_is_bounded(monkeypatch):
    import collab_ext.features as f
    monkeypatch.setattr(f, 'remembered', 10)
    labels = f.Labels.of(['a','b'], 1, 10)
    for i in range(100): assert labels.codes[f'new {i}']==0
    assert len(labels.codes)<=10 and labels.codes['a']==1
    labels.codes['x'*101]
    assert 'x'*101 not in labels.codes

def test_no_torch():
    code = 'import sys; from collab_ext.features import Features; assert not {"torch","fastai"} & {*sys.modules}'
    subprocess.run([sys.executable,'-c',code], check=True)

def test_one_label_is_a_list_of_one():
    assert (plain.transform(plain.frame([dict(tags=5), dict(tags=[5]), dict(tags='5')])).matrix().toarray().std(0)==0).all()

def test_limits_are_said():
    with pytest.raises(RecordError, match='text of at most 1,000,000 characters'): encoded.frame([dict(summary='x'*2_000_000)])

@pytest.mark.parametrize('kw,message', [(dict(numbers=0), "0 is none; rename"), (dict(text='summary', encoder='nothing'), "one of \\['token_vectors'\\]"), (dict(text='summary', encoder=3), 'not 3')])
def test_definitions_that_are_none(kw, message):
    with pytest.raises(ValueError, match=message): Features(**kw)

def test_encoders_read_lists_of_texts():
    pytest.importorskip('wordllama')
    encoder = Features(text='summary', encoder='token_vectors').encoder
    with pytest.raises(ValueError, match='text 1 is None'): encoder(['a', None])
    with pytest.raises(ValueError, match='pass \\[.one text'): encoder('one text')
