"Solidago's scores for `compare.py`, run by a Python that has it: a frame of comparisons in, a frame of scores out"
import json,sys,time
import numpy as np,pandas as pd

def own_scores(df, threshold):
    "Scores that contributors give, each by themselves"
    from solidago.judgments import DataFrameJudgments
    from solidago.preference_learning import UniformGBT
    gbt = UniformGBT(prior_std_dev=7, high_likelihood_range_threshold=threshold)
    users = pd.DataFrame(index=pd.Index(df.user_id.unique(), name='user_id'))
    entities = pd.DataFrame(index=pd.Index(np.unique(df[['entity_a','entity_b']]), name='entity_id'))
    models = gbt(DataFrameJudgments(df), users, entities)
    rows = [(u,e,*values) for u,m in models.items() for e,values in m.iter_entities()]
    return pd.DataFrame(rows, columns=['user','entity','score','left','right'])

def global_scores(df):
    "Scores of everybody by the pipeline, everyone trusted alike"
    from solidago.judgments import DataFrameJudgments
    from solidago.pipeline import Pipeline
    from solidago.privacy_settings import PrivacySettings
    users = pd.DataFrame(dict(is_pretrusted=True, trust_score=1.), index=pd.Index(df.user_id.unique(), name='user_id'))
    entities = pd.DataFrame(index=pd.Index(np.unique(df[['entity_a','entity_b']]), name='entity_id'))
    vouches = pd.DataFrame(dict(voucher=pd.Series(dtype=int), vouchee=pd.Series(dtype=int), vouch=pd.Series(dtype=float)))
    privacy = PrivacySettings()
    for u,a,b in df[['user_id','entity_a','entity_b']].values:
        for e in (a,b): privacy[u,e] = False
    model = Pipeline()(users, vouches, entities, privacy, DataFrameJudgments(df))[3]
    return pd.DataFrame([(e,*values) for e,values in model.iter_entities()], columns=['entity','score','left','right'])

def main(what, source, target, threshold='1'):
    df = pd.read_csv(source)
    first = df.head(20)
    own_scores(first, float(threshold)) # numba compiles
    t,cpu = time.perf_counter(),time.process_time()
    res = own_scores(df, float(threshold)) if what=='own' else global_scores(df)
    print(json.dumps(dict(seconds=time.perf_counter()-t, cpu=time.process_time()-cpu)))
    res.to_csv(target, index=False)

if __name__=='__main__': main(*sys.argv[1:])
